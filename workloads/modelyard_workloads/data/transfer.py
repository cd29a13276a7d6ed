"""How tensors reach the device that trains, and which may stay there."""

from __future__ import annotations

import torch
from torch import Tensor

_SHARE = 0.3  # of a GPU's free memory that data may take


def has_room(size: int, device: torch.device) -> bool:
    """May data of `size` bytes stay on the device? On a GPU with plenty of free memory; a CPU has it anyway."""
    return device.type == "cuda" and size < _SHARE * torch.cuda.mem_get_info(device)[0]


def to_device(value: Tensor, device: torch.device | str) -> Tensor:
    """The same tensor there. To a GPU it travels while the processor goes on: from page-locked memory, since a copy
    from any other one first waits for all that the GPU has to do.
    """
    if value.device.type != "cpu" or torch.device(device).type != "cuda":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)
