"""From a batch to gradients: mixed precision, compilation, and accumulation over parts of the batch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from modelyard_workloads.exits import ConfigError, Issue
from modelyard_workloads.parameters import Parameters
from modelyard_workloads.randomness import strictly_deterministic
from modelyard_workloads.tasks.base import Strict, Task


@runtime_checkable
class Divisible(Protocol):
    """A batch that knows how to divide itself; others are cut along dimension 0 of their tensors."""

    def parts(self, count: int) -> Sequence[Any]:
        """`count` batches that together hold every sample once."""
        ...


@runtime_checkable
class Regional(Protocol):
    """A model that is compiled region by region. Its blocks are alike and so are compiled once for all of them, which
    takes a fraction of the time that the whole takes, at every start; what is lost is fusion from block to block.
    """

    def regions(self) -> Iterable[nn.Module]:
        """The modules to compile; what is outside of them runs as it is written."""
        ...


@runtime_checkable
class Sharded(Protocol):
    """A model that is shared out among the ranks (FSDP2's FSDPModule, whose own module takes a second to import)."""

    def set_requires_gradient_sync(self, requires_gradient_sync: bool) -> None:
        """Whether the next backward pass exchanges gradients."""
        ...


class Backward:
    """Makes the gradients of one optimizer step."""

    def __init__(self, parameters: Parameters, device: torch.device) -> None:
        self._parts = parameters.accumulation_steps
        self._device = device
        self._bf16 = uses_bf16(parameters.precision, device)

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which the model runs."""
        return torch.autocast(self._device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def __call__(self, task: Task, model: nn.Module, batch: Any) -> Tensor:
        """Add the gradients of the batch to the model's; the loss. The ranks exchange gradients once, after the last
        part.
        """
        strict = self._device.type == "cuda" and isinstance(task, Strict)
        with strictly_deterministic() if strict else nullcontext():
            return self._in_parts(task, model, list(divide(batch, self._parts)))

    def _in_parts(self, task: Task, model: nn.Module, parts: list[Any]) -> Tensor:
        total: Tensor | None = None
        for number, part in enumerate(parts, start=1):
            with _exchange(model, number == len(parts)):
                with self.precision():
                    loss = task.loss(model, part)
                loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total


def divide(batch: Any, count: int) -> Iterator[Any]:
    """The batch in `count` parts whose sizes differ by at most one."""
    if count == 1:
        yield batch
    elif isinstance(batch, Divisible):
        yield from batch.parts(count)
    else:
        for number in range(count):
            yield _part(batch, number, count)


def _part(value: Any, number: int, count: int) -> Any:
    if isinstance(value, Tensor):
        start, end = (n * len(value) // count for n in (number, number + 1))
        return value[start:end]
    if isinstance(value, dict):
        return {name: _part(item, number, count) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_part(item, number, count) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _part(getattr(value, f.name), number, count) for f in fields(value)})
    return value


def uses_bf16(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Does the model run in bfloat16? `auto` does on a GPU that computes in it; on a CPU it stays exact. Raises
    ConfigError when a GPU cannot.
    """
    able = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not able:
        name = torch.cuda.get_device_name(device)
        raise ConfigError([Issue("parameters.precision", f"{name} does not compute in bf16; write fp32 or auto")])
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and able)


def compiles(mode: Literal["auto", "on", "off"], device: torch.device) -> bool:
    """Is the model compiled? `auto` compiles on a GPU; on a CPU the first steps would wait for a C++ compiler."""
    return mode == "on" or (mode == "auto" and device.type == "cuda")


def compile_model(model: nn.Module, mode: Literal["auto", "on", "off"], device: torch.device) -> None:
    """Compile in place (the names of the weights stay). Raises ConfigError when it is asked for and there is no C++
    compiler.
    """
    if not compiles(mode, device):
        return
    if device.type == "cpu" and not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        issue = Issue("parameters.compile", "needs a C++ compiler, and this image has none; write auto or off")
        raise ConfigError([issue])
    for region in model.regions() if isinstance(model, Regional) else [model]:
        region.compile()


def _exchange(model: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
    """Without the exchange, gradients are only added up on this rank."""
    if isinstance(model, Sharded):
        model.set_requires_gradient_sync(wanted)
        return nullcontext()
    if wanted or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    context: AbstractContextManager[Any] = model.no_sync()
    return context
