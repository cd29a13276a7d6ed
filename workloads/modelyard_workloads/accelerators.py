"""What accelerators can do at most, as their makers say it."""

from __future__ import annotations

import torch

from modelyard_workloads.backward import uses_bf16
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.parameters import Parameters

# Dense matrix products in bf16 with sums in fp32, in 1e12 operations a second. Sheets that only give the figure for
# sparse matrices give twice as much. https://www.nvidia.com/en-us/data-center/NAME/, NAME being a100, h100, h200, l4,
# l40s, a30 or dgx-b200
_BF16_TERAFLOPS = {
    "B200": 2250.0,
    "H200 NVL": 835.5,
    "H200": 989.5,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.5,
    "H100": 989.5,
    "A100": 312.0,
    "A30": 165.0,
    "L40S": 362.0,
    "L4": 121.0,
}


def bf16_peak(name: str) -> float | None:
    """Operations a second of the accelerator that torch calls by this name (`NVIDIA H100 80GB HBM3`); None where it is
    not known.
    """
    words = name.split()
    for known, teraflops in _BF16_TERAFLOPS.items():
        model, *kind = known.split()
        if any(word.split("-")[0] == model for word in words) and all(word in words for word in kind):
            return teraflops * 1e12
    return None


def peak(parameters: Parameters, ranks: Ranks) -> float | None:
    """Operations a second of all ranks together; None where it is not known, or the model does not run in bf16."""
    if ranks.device.type != "cuda" or not uses_bf16(parameters.precision, ranks.device):
        return None
    each = bf16_peak(torch.cuda.get_device_name(ranks.device))
    return None if each is None else each * ranks.world_size
