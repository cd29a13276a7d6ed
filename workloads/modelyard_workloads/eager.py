"""Training without torch.compile need not import the compiler.

torch imports its compiler (torch._dynamo, and with it torch._inductor, sympy and onnx) when the first optimizer or the
first DistributedDataParallel is made, only to mark functions as not to be compiled. That is half of the CPU time that a
rank needs until its first step, and a gang pays it on every restart. `skip_compiler` takes those marks away;
everything computes the same without them.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

_COMPILER = "torch._dynamo"


def skip_compiler() -> None:
    """Let optimizers and DDP run without the compiler. Call it before they are made; not for a model to be compiled."""
    for owner in (torch.optim.Optimizer, DistributedDataParallel):
        for function in vars(owner).values():
            _unmark(function)
    for optimizer in (torch.optim.SGD, torch.optim.Adam):  # AdamW is an Adam
        optimizer.step = torch.no_grad()(inspect.unwrap(optimizer.step))  # type: ignore[method-assign]


@contextmanager
def constructing() -> Iterator[None]:
    """While DDP is constructed: it asks the compiler for a mode of optimisation, which is the default."""
    if _COMPILER in sys.modules:
        yield
        return
    names: Any = torch
    names._dynamo = SimpleNamespace(utils=SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer"))
    try:
        yield
    finally:
        del names._dynamo


def _unmark(function: Any) -> None:
    """`torch._disable_dynamo` keeps the marked function in an attribute of the plain one; make that the plain one."""
    while (inner := getattr(function, "__wrapped__", None)) is not None:
        if getattr(function, "__globals__", {}).get("__name__") == "torch._compile":
            setattr(inner, "__dynamo_disable", inner)
        function = inner
