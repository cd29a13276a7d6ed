"""Speed of the trainers beside what people run today: `make bench-train` (ONLY=bert, gpt, resnet; ROUNDS=3).

Prints JSON lines {"bench", "unit", "ours", "peer", "theirs", "ratio", …}: ratio above 1 says that ours is better. Each
side is a process of its own on the same data, model, batch, precision and threads; the sides take turns, and the
medians are compared. A side is a script that prints one JSON object with `unit`, `rate`, `cpuRate` (by seconds of the
processor: what holds on a busy machine too), `loss` and, the peer, `peer`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PATHS = os.pathsep.join([str(HERE.parents[1] / "workloads"), str(HERE.parent)])
_SECONDS = 1800  # for one side once


@dataclass(frozen=True)
class Comparison:
    """`script ours …` and `script peer …`; `what` is the line's name."""

    what: str
    script: str
    arguments: tuple[str, ...] = ()


COMPARISONS: dict[str, list[Comparison]] = {
    "bert": [
        Comparison("BERT tiny, pretraining, 128 tokens", "train_bert.py", ("tiny", "8")),
        Comparison("BERT mini, pretraining, 128 tokens", "train_bert.py", ("mini", "8")),
    ],
    "gpt": [
        Comparison("GPT-2 4x256, fp32 beside fp32", "train_gpt.py", ("fp32",)),
        Comparison("GPT-2 4x256, bf16 beside fp32", "train_gpt.py", ("bf16",)),
    ],
    "resnet": [
        Comparison("ResNet-18, 112 pixels, fp32 beside fp32", "train_resnet.py", ("fp32", "torchvision", "112")),
        Comparison("ResNet-18, 112 pixels, fp32 beside fp32", "train_resnet.py", ("fp32", "timm", "112")),
        Comparison("ResNet-18, 112 pixels, bf16 beside fp32", "train_resnet.py", ("bf16", "torchvision", "112")),
    ],
}


def measured(comparison: Comparison, side: str) -> dict[str, Any]:
    """One run of one side."""
    command = [sys.executable, str(HERE / comparison.script), side, *comparison.arguments]
    environment = {**os.environ, "PYTHONPATH": _PATHS, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=_SECONDS, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(comparison: Comparison, rounds: int) -> dict[str, Any]:
    """The medians of `rounds` turns."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for side, results in runs.items():
            results.append(measured(comparison, side))
    ours, theirs = (statistics.median(run["rate"] for run in runs[side]) for side in ("ours", "peer"))
    by_cpu = [statistics.median(run["cpuRate"] for run in runs[side]) for side in ("ours", "peer")]
    return {
        "bench": comparison.what,
        "unit": runs["ours"][0]["unit"],
        "ours": round(ours, 1),
        "peer": runs["peer"][0]["peer"],
        "theirs": round(theirs, 1),
        "ratio": round(ours / theirs, 2),
        "ratioByCpu": round(by_cpu[0] / by_cpu[1], 2),
        "loss": round(runs["ours"][-1]["loss"], 3),
        "theirLoss": round(runs["peer"][-1]["loss"], 3),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count(),
        "rounds": rounds,
    }


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(COMPARISONS), help="one family instead of all")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for family, comparisons in COMPARISONS.items():
        if arguments.only in (None, family):
            for comparison in comparisons:
                sys.stdout.write(json.dumps(compare(comparison, arguments.rounds)) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
