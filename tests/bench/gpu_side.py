"""One side of a comparison on a GPU: a process that is asked over its standard input; see bench_gpu.py.

It answers each line with a line of JSON:

    begin         the warm-up, which compiles -> what that took; until then only the weights are on the GPU
    time N        N steps -> {"rate", "milliseconds"}
    profile       three steps -> what the GPU spent its time on
    resume        ours: three steps, twice from the same state -> are the weights the same, bit for bit?
    benchmark N   the same as time and resume, but from now on cuDNN may try its algorithms
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from modelyard_workloads import eager
from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.randomness import make_deterministic
from modelyard_workloads.tasks import build_task
from torch import Tensor, nn

_PEAK = {"cuda": 8192, "cpu": 256}  # rows and columns of the matrix product that is the peak


@dataclass
class Side:
    """`step` does one optimizer step, its data included, on `amount` of `unit` a step."""

    step: Callable[[], Any]
    unit: str
    amount: float
    about: dict[str, Any] = field(default_factory=dict)  # said in the answer `ready`
    training: Training | None = None  # ours
    warm_up: int = 4  # steps


def trained(raw: dict[str, Any]) -> tuple[Training, nn.Module]:
    """The objects with which a pod trains, made as `train.py` makes them."""
    eager.skip_compiler()
    make_deterministic()
    config, ranks = parse(raw), Ranks(RankInfo())
    ranks.start()
    training = Training(build_task(config), config, ranks)
    return training, training.prepare(ranks)


def ours(raw: dict[str, Any], unit: str, amount: float) -> Side:
    """Our loop's own steps."""
    training, model = trained(raw)
    return Side(lambda: training.step(model, next(training.data)), unit, amount, training=training)


def device() -> torch.device:
    """The GPU; a CPU for trying the scripts out."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def eager_peer() -> bool:
    """Is the peer not to be compiled? Few loops are; and it takes a minute."""
    return "EAGER_PEER" in os.environ


def compiling() -> str:
    """The same, for the peer's name."""
    return "not compiled" if eager_peer() else "torch.compile"


def settle() -> None:
    """Wait until all is computed."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_peak() -> float:
    """Operations a second of a large product of random bfloat16 matrices, the median of ten."""
    size = _PEAK[device().type]
    one, two = (torch.randn(size, size, device=device(), dtype=torch.bfloat16) for _ in range(2))
    seconds = sorted(timed(lambda: one @ two) for _ in range(13))[:10]
    return 2 * size**3 / seconds[5]


def timed(work: Callable[[], Any]) -> float:
    """Seconds until it is done."""
    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began


def serve(side: Side) -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        verb, *arguments = line.split()
        if verb == "begin":
            say(_warm_up(side))
        elif verb == "time":
            say(_rate(side, int(arguments[0])))
        elif verb == "profile":
            say(_profile(side))
        elif verb == "resume":
            say({"resumesBitIdentical": _resumes(side)})
        elif verb == "benchmark":
            torch.backends.cudnn.benchmark = True
            for _ in range(2):
                side.step()
            say(_rate(side, int(arguments[0])) | {"resumesBitIdentical": _resumes(side)})


def say(answer: dict[str, Any]) -> None:
    """One line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _warm_up(side: Side) -> dict[str, Any]:
    seconds = timed(lambda: [side.step() for _ in range(side.warm_up)])
    memory = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
    return {"ready": round(seconds, 1), "gib": round(memory, 1), "unit": side.unit, **side.about}


def _rate(side: Side, steps: int) -> dict[str, float]:
    seconds = timed(lambda: [side.step() for _ in range(steps)])
    return {"rate": steps * side.amount / seconds, "milliseconds": 1e3 * seconds / steps}


def _profile(side: Side) -> dict[str, Any]:
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        seconds = timed(lambda: [side.step() for _ in range(3)])
    kernels = [e for e in profile.key_averages() if e.device_type.name != "CPU"]
    kernels.sort(key=lambda e: -e.self_device_time_total)
    waits = [e for e in profile.key_averages() if "Synchronize" in e.key or e.key in ("aten::item", "aten::nonzero")]
    return {
        "milliseconds": 1e3 * seconds / 3,
        "busy": sum(e.self_device_time_total for e in kernels) / 1e6 / seconds,
        "kernels": [[e.key[:110], e.count / 3, round(e.self_device_time_total / 3e3, 3)] for e in kernels[:28]],
        "waits": {e.key: [e.count / 3, round(e.self_cpu_time_total / 3e3, 3)] for e in waits},
    }


def _resumes(side: Side) -> bool | None:
    """Three steps, then the state before them again, and the same three steps."""
    if side.training is None:
        return None
    training, ranks = side.training, Ranks(RankInfo())
    before = copy.deepcopy(training.sections(ranks))
    ends: list[list[Tensor]] = []
    for _ in range(2):
        training.restore(copy.deepcopy(before), ranks)
        for _ in range(3):
            side.step()
        ends.append([value.detach().clone() for value in training.model.state_dict().values()])
    return all(torch.equal(one, two) for one, two in zip(*ends, strict=True))


def main(sides: dict[str, Callable[[Path, bool], Side]]) -> None:
    """`SCRIPT ours|peer FOLDER [tiny]`."""
    which, folder, *size = sys.argv[1:]
    torch.manual_seed(0)
    serve(sides[which](Path(folder), size == ["tiny"]))
