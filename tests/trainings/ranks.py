"""The ranks of one gloo group as processes of their own, forked from one that has imported torch: they all would spend
their first two or three seconds on that.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import connection, context, forkserver, get_context
from pathlib import Path

import pytest
from ports import free_port

from trainings.pods import ROOT

_PRELOADED = ["torch", "torch.distributed", "safetensors.torch", "trainings.ranks"]


def run_ranks(
    module: str,
    arguments: Sequence[str],
    size: int,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    each: Sequence[Mapping[str, str]] = (),
    seconds: float = 200,
) -> str:
    """What rank 0 of `python -m module arguments…` printed; all ranks must end well. `directory` keeps what they print.

    `environment` is added to every rank's, and `each` to those of single ranks, in their order; "PWD" there is where
    the rank runs.
    """
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    group |= {"LOCAL_WORLD_SIZE": str(size), **(environment or {})}
    directory.mkdir(parents=True, exist_ok=True)
    outputs = [directory / f"printed-by-rank-{rank}" for rank in range(size)]
    ranks = []
    for rank, output in enumerate(outputs):
        own = {**os.environ, **group, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        own |= each[rank] if each else {}
        ranks.append(_preloaded().Process(target=_rank, args=(module, list(arguments), own, output), daemon=True))
    for process in ranks:
        process.start()
    for process in ranks:
        connection.wait([process.sentinel], timeout=seconds)
    assert [process.exitcode for process in ranks] == [0] * size, [path.read_text() for path in outputs]
    return outputs[0].read_text()


@cache
def _preloaded() -> context.ForkServerContext:
    """Where the ranks are forked from."""
    made = get_context("forkserver")
    made.set_forkserver_preload(_PRELOADED)
    with pytest.MonkeyPatch.context() as patch:  # it starts with the environment of this moment
        patch.setenv("PYTHONPATH", f"{ROOT / 'workloads'}:{ROOT / 'tests'}")
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()
    return made


def _rank(module: str, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    """In the forked process: become that program."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(environment.get("PWD", "."))
    sys.argv = [module, *arguments]
    with output.open("w") as printed:
        os.dup2(printed.fileno(), sys.stdout.fileno())
    runpy.run_module(module, run_name="__main__", alter_sys=True)
