"""The names that torch gives to GPUs, and what their makers say of them."""

from __future__ import annotations

import pytest
from modelyard_workloads.accelerators import bf16_peak
from modelyard_workloads.metrics import rates_of


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA B200", 2250.0),
        ("NVIDIA L40", None),
        ("Tesla T4", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_name_or_not_told(name: str, teraflops: float | None) -> None:
    peak = bf16_peak(name)
    assert (peak and peak / 1e12) == teraflops


def test_the_utilization_of_a_gpu_is_told_where_its_peak_and_the_work_are_known() -> None:
    work = {"tokens": 100.0, "flops": 5e12}
    assert rates_of(work, 0.5, 4e13) == {
        "tokensPerSecond": 200.0,
        "flopsPerSecond": 1e13,
        "modelFlopsUtilization": 0.25,
    }
    assert "modelFlopsUtilization" not in rates_of(work, 0.5, None)
    assert rates_of({"tokens": 100.0}, 0.5, 4e13) == {"tokensPerSecond": 200.0}
    assert rates_of(work, 0.0, 4e13) == {}, "before the first step"
