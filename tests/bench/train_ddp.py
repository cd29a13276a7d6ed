"""One rank of a training, for bench_ddp.py: `train_ddp.py FAMILY ROWS FOLDER`, with torchrun's variables. The ranks
share the folder.

Steps as the loop does them, data included, on one thread, until it is ended, or its parent is. Prints for each when it
began and when it ended, by the machine's monotonic clock, and the seconds of the processor that it took.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.tasks import build_task

LENGTH = 128  # tokens in a row of text
COLUMNS: dict[str, Any] = {
    "label": "clicked",
    "numeric": {"price": "log"},
    "categorical": {"user": 20_000, "item": 20_000, "hour": 24},
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt": {"task": "causal-lm", "dataset": "example://python-docs", "parameters": {"contextLength": LENGTH}},
    "bert": {
        "task": "bert-pretraining",
        "dataset": "example://python-docs",
        "parameters": {"architecture": "mini", "sequenceLength": LENGTH},
    },
    "resnet": {"task": "image-classification", "dataset": "example://digits", "parameters": {"smallInputStem": True}},
    "wide-deep": {"task": "recommendation", "dataset": "example://clicks", "parameters": COLUMNS},
}


def training(family: str, rows: int, ranks: Ranks, output: Path) -> Training:
    """A training with `rows` for each rank, before its first step."""
    chosen = FAMILIES[family]
    config = parse(
        {
            "task": chosen["task"],
            "parameters": {**chosen["parameters"], "batchSize": rows * ranks.world_size, "precision": "fp32"},
            "dataset": {"uri": chosen["dataset"]},
            "output": {"path": str(output)},
        }
    )
    return Training(build_task(config), config, ranks)


def main() -> None:
    """Print a line for each step."""
    family, rows, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    ranks = Ranks(RankInfo.from_environment(os.environ))
    ranks.start()
    run = training(family, rows, ranks, folder)
    model = run.prepare(ranks)
    parent = os.getppid()
    while os.getppid() == parent:
        began, computed = time.monotonic(), time.process_time()
        run.step(model, next(run.data))
        sys.stdout.write(f"{began} {time.monotonic()} {time.process_time() - computed}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
