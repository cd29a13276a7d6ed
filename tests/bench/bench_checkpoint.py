"""How long a checkpoint stops the training: ours, beside a synchronous save and PyTorch's own asynchronous one.

    python tests/bench/bench_checkpoint.py --megabytes 400 --rounds 5

The state is that of AdamW: weights and two moments, float32. One JSON line for each way, medians over the rounds:
`stallSeconds` until the loop may go on, `seconds` until the checkpoint is on the disk (fsynced, and for ours read back
and verified). The peers: `torch.save` and `torch.distributed.checkpoint.async_save` as their documentation has them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from modelyard_workloads.checkpoint import CheckpointStore, Run
from modelyard_workloads.durable import Fence
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.saver import Saver
from torch.distributed.checkpoint.state_dict_saver import async_save

Way = Callable[[int], tuple[float, float]]  # step -> (stall, whole), in seconds
_TENSORS = 50


def state_of(megabytes: int, device: torch.device) -> dict[str, Any]:
    """Weights and two moments, in so many tensors each."""
    count = megabytes * (1 << 20) // 4 // 3 // _TENSORS

    def section() -> dict[str, Any]:
        return {f"layer.{number}.weight": torch.randn(count, device=device) for number in range(_TENSORS)}

    return {"model": section(), "first": section(), "second": section(), "loop": {"step": 1}}


def ours(directory: Path, state: dict[str, Any]) -> Way:
    """The saver of the training loop."""
    fence = Fence(directory, 1, "bench")
    fence.acquire()
    run = Run(fingerprint="bench", uid="bench")
    store = CheckpointStore(directory / "checkpoints", uri="", keep_last=1, fence=fence, run=run)
    store.prepare()
    saver = Saver(store, Reporter(rank=1, environment={}))

    def save(step: int) -> tuple[float, float]:
        began = time.perf_counter()
        saver.submit(step, state, ())
        stalled = time.perf_counter() - began
        if problem := saver.settle(wait=True):
            raise OSError(problem)
        return stalled, time.perf_counter() - began

    return save


def torch_save(directory: Path, state: dict[str, Any]) -> Way:
    """`torch.save`, then fsync: the loop waits for all of it."""

    def save(step: int) -> tuple[float, float]:
        began = time.perf_counter()
        with (directory / f"{step % 2}.pt").open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        return (time.perf_counter() - began,) * 2

    return save


def dcp_async(directory: Path, state: dict[str, Any]) -> Way:
    """`torch.distributed.checkpoint.async_save` in a group of one."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, init_method=f"file://{directory}/store", rank=0, world_size=1)

    def save(step: int) -> tuple[float, float]:
        began = time.perf_counter()
        future = async_save(state, checkpoint_id=str(directory / str(step % 2)))
        stalled = time.perf_counter() - began
        assert isinstance(future, Future)
        future.result()
        return stalled, time.perf_counter() - began

    return save


def main() -> None:
    """Measure every way; the first round of each, which makes its buffers, does not count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=400, help="size of the state")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where to write; a temporary directory by default")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    state = state_of(arguments.megabytes, device)
    synchronous: float | None = None
    for make in (ours, torch_save, dcp_async):
        with tempfile.TemporaryDirectory(dir=arguments.directory) as name:
            save = make(Path(name), state)
            figures = [save(step) for step in range(arguments.rounds + 1)][1:]
        stall, whole = (statistics.median(column) for column in zip(*figures, strict=True))
        synchronous = synchronous or whole
        line = {
            "way": make.__name__,
            "megabytes": arguments.megabytes,
            "device": str(device),
            "stallSeconds": round(stall, 4),
            "seconds": round(whole, 4),
            "stallShareOfOurSynchronousSave": round(stall / synchronous, 4),
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
