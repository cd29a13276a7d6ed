"""What one rank of a training needs, whether its device has it, and the largest batch that fits where it has not."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

import torch

from modelyard_workloads.backward import uses_bf16
from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.exits import ConfigError, Issue
from modelyard_workloads.hardware import available_cores, available_memory
from modelyard_workloads.parameters import Parameters

logger = logging.getLogger(__name__)

NUMBER = 4  # bytes of a float32
_MOMENTS = {"sgd": 1, "adamw": 2, "muon": 1}
_SHARE_USABLE = 0.92  # of a device's memory; the rest is the libraries' and fragmentation
# What a GPU (a third of an H100) and a CPU's core reach, for the estimate alone: operations and bytes a second.
_OPERATIONS = {"cuda": 3e14, "cpu": 5e10}
_TRAFFIC = {"cuda": 2e12, "cpu": 5e9}
_TIMES_TOUCHED = 3  # what the backward pass needs is written once and read twice


@dataclass(frozen=True, kw_only=True)
class State:
    """Bytes of what is there from the first step to the last."""

    device_bytes: int  # weights, gradients, optimizer state, moving average
    copy_bytes: int = 0  # of rank 0, in ordinary memory: the best weights, and a checkpoint that is being written


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one rank needs."""

    parameters: int  # how many
    state: State
    row_bytes: int  # for each row of the part of a batch that is computed at once
    flops: float  # of a step, for each row of a batch
    smaller: str = "smaller model"  # what to write where not one row fits


def trained(count: int, parameters: Parameters, *, frozen: int = 0, beside: int = 0) -> State:
    """The state of so many float32 parameters that learn, of frozen ones, and other numbers beside them; a checkpoint
    has but the first.
    """
    moments = _MOMENTS[parameters.optimizer]
    average = parameters.ema_decay is not None
    learned = count * (2 + moments + average)  # weights and gradients are the two
    copies = count * (1 + 1 + moments + average)  # the best weights; weights, moments and average of a checkpoint
    return State(device_bytes=NUMBER * (learned + frozen * (1 + average) + beside), copy_bytes=NUMBER * copies)


def shared(state: State, ranks: int) -> State:
    """What each of some ranks has where they share the state out."""
    return replace(state, device_bytes=state.device_bytes // ranks)


def check(need: Demand, config: TrainingConfig, ranks: Ranks) -> None:
    """Say what a step takes. Raises ConfigError when a batch cannot fit into this rank's memory."""
    parameters, device = config.parameters, ranks.device
    together = ranks.info.local_world_size
    if device.type == "cuda":
        available: int | None = torch.cuda.mem_get_info(device)[0]
        cores = 1
    else:
        available, cores = available_memory(together), max(1, available_cores() // together)
        need = replace(need, state=_with_copies(need.state, together))
    rows = -(-parameters.batch_size // (ranks.world_size * parameters.accumulation_steps))
    if ranks.is_main:
        seconds = step_seconds(need, -(-parameters.batch_size // ranks.world_size), device.type, cores)
        text = "%d parameters; a step is estimated to take %s, and %.2g s on this kind of device"
        logger.info(text, need.parameters, _size(bytes_of(need, rows)), seconds)
    if available is not None and not config.memory_grows:
        parts = parameters.accumulation_steps
        check_memory(need, available, batch_size=parameters.batch_size, ranks=ranks.world_size, parts=parts)


def _with_copies(state: State, ranks: int) -> State:
    """The ranks of a pod share its memory, in which rank 0's copies are."""
    return replace(state, device_bytes=state.device_bytes + state.copy_bytes // ranks)


def bytes_of(need: Demand, rows: int) -> int:
    """Bytes for so many rows at once."""
    return need.state.device_bytes + rows * need.row_bytes


def check_memory(need: Demand, available: int, *, batch_size: int, ranks: int, parts: int) -> int:
    """Bytes that a rank will need. Raises ConfigError with the largest batch that fits, or says that none does."""
    fixed = need.state.device_bytes
    total = bytes_of(need, -(-batch_size // (ranks * parts)))
    usable = int(available * _SHARE_USABLE)
    if total <= usable:
        return total
    fitting = max(0, (usable - fixed) // max(1, need.row_bytes))
    sizes = f"needs about {_size(total)}, a device has {_size(available)}"
    if not fitting:
        advice = f"not one row fits beside {_size(fixed)} of weights and optimizer state: take a {need.smaller}"
        raise ConfigError([Issue("parameters.batchSize", f"{sizes}; {advice}")])
    enough = -(-batch_size // (ranks * fitting))
    advice = f"write accumulationSteps: {enough}, or batchSize: {fitting * ranks * parts} or less"
    raise ConfigError([Issue("parameters.batchSize", f"{batch_size} {sizes}; {advice}")])


def step_seconds(need: Demand, rows: int, device: str, cores: int = 1) -> float:
    """Seconds of a step over so many rows of this rank: its arithmetic, and the memory that it reads and writes.
    `cores` of a CPU.
    """
    traffic = need.state.device_bytes + rows * need.row_bytes * _TIMES_TOUCHED
    return (need.flops * rows / _OPERATIONS[device] + traffic / _TRAFFIC[device]) / cores


def number_bytes(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> int:
    """Bytes of a number that a matrix product reads."""
    return 2 if uses_bf16(precision, device) else NUMBER


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
