"""A training that kills itself in the middle of a step: `python -m trainings.killed CONFIG STEP PART`, where a batch is
computed in parts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import train
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.randomness import make_deterministic
from modelyard_workloads.tasks import build_task
from torch import Tensor, nn


def main() -> None:
    """Train until the loss of that part of that step is known, then die as by the kernel's hand."""
    make_deterministic()
    config = parse(json.loads(sys.argv[1]))
    step, part = map(int, sys.argv[2:])
    last = (step - 1) * config.parameters.accumulation_steps + part
    task: Any = build_task(config)
    loss, asked = task.loss, 0

    def counted(model: nn.Module, batch: Any) -> Tensor:
        nonlocal asked
        asked += 1
        found: Tensor = loss(model, batch)
        if asked == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    task.loss = counted
    train(task, config, Ranks(RankInfo()), Reporter(rank=1), lambda: False)


if __name__ == "__main__":
    main()
