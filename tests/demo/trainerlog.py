"""The trainer's log: JSON lines of rank 0, among lines of anybody else."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class History:
    """What the log tells: (step, value) in the order of the steps."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    accuracies: list[tuple[int, float]] = field(default_factory=list)
    step: int = 0
    total: int = 0
    epoch: int = 0


def read_history(lines: Iterable[str]) -> History:
    """Points of all progress and evaluation lines; a step that was done again counts as it was done last."""
    losses: dict[int, float] = {}
    accuracies: dict[int, float] = {}
    step = total = epoch = 0
    for line in lines:
        _, brace, rest = line.partition("{")
        try:
            event = json.loads(brace + rest)
        except ValueError:
            continue
        kind, metrics = event.get("event"), event.get("metrics") or {}
        if kind == "progress" and "loss" in metrics:
            losses[event["step"]] = metrics["loss"]
            step, total, epoch = event["step"], event["totalSteps"], event["epoch"]
        elif kind == "evaluation" and "accuracy" in metrics:
            accuracies[event["step"]] = metrics["accuracy"]
    return History(sorted(losses.items()), sorted(accuracies.items()), step, total, epoch)
