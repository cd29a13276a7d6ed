"""Weights, gradients and optimizer state shared out among the ranks (FSDP), and put together where they are published.

Checkpoints hold the slices that each rank writes (see parts.py), or, where not all ranks see the volume, whole tensors,
gathered one after the other. What is read is whole either way: so it can be resumed on another number of ranks, with or
without sharding. Source: Zhao et al. 2023 (arXiv 2304.11277); `torch.distributed.fsdp.fully_shard`.

What torch has for this takes a second to import, at every start of every rank: only who shards does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn

from modelyard_workloads.exits import DataError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_slice(value: Any) -> TypeGuard[DTensor]:
    """Whether a tensor is this rank's part of a shared one. Nothing is before its module was imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def shard(model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Share out the model among all ranks; the blocks are gathered one at a time when they compute."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def in_step(batches: Sequence[Any], *, least: int, most: int) -> Iterator[tuple[Any, bool]]:
    """`most` batches, and whether each counts: this rank's own, then its last one again.

    All ranks take part whenever a shared model is gathered, so none may have fewer to compute than the others. `least`
    is the fewest that any rank has. Raises DataError, on all ranks alike, when that is none.
    """
    if least == 0:
        raise DataError(
            "the held-out data has fewer batches than there are ranks, which sharding cannot evaluate;"
            " raise evaluationFraction, or write sharding: none"
        )
    return ((batches[min(index, len(batches) - 1)], index < len(batches)) for index in range(most))


def gathered(tree: Any, *, keep: bool) -> Any:
    """A state with whole tensors for shared ones, on the CPU; a collective call. Ranks that do not `keep` it get None
    for them.
    """
    if is_slice(tree):
        whole: Tensor = tree.full_tensor().detach()
        return whole.to("cpu", copy=True) if keep else None
    if isinstance(tree, dict):
        return {name: gathered(value, keep=keep) for name, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value, keep=keep) for value in tree]
    return tree


def shared_out(values: dict[str, Tensor], like: dict[str, Any]) -> dict[str, Tensor]:
    """Whole tensors, as this rank holds the ones of the same names in `like`."""
    return {name: _as(value, like[name]) if name in like else value for name, value in values.items()}


def share_out_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A state dict of whole tensors with those of the size of a shared parameter cut like it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    values = {
        number: {name: _as(value, parameters[int(number)]) for name, value in entries.items()}
        for number, entries in state["state"].items()
    }
    return {**state, "state": values}


def _as(value: Any, like: Any) -> Any:
    if not is_slice(like) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    here = value.to(like.device, like.dtype)
    # Every rank has the whole tensor and keeps its part: nothing is sent.
    return distribute_tensor(here, like.device_mesh, like.placements, src_data_rank=None)
