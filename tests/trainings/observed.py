"""What a few steps of a training show of its parameters, without checkpoints and artifacts: in milliseconds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.exits import ExitError
from modelyard_workloads.loop import Training
from modelyard_workloads.randomness import make_deterministic
from modelyard_workloads.tasks import build_task
from torch import Tensor, nn

from trainings.builtin import configuration

STEPS = 3


def observe(task_name: str, output: Path, dataset: str, parameters: dict[str, Any], model: str = "") -> dict[str, Any]:
    """The evaluated weights after `STEPS` steps (a digest), their metrics, the rates of all steps, and how often the
    loss was asked for; or the message of the error that ended it.
    """
    make_deterministic()
    ranks = Ranks(RankInfo())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work is slower when it is shared out
    try:
        config = parse(configuration(task_name, output, dataset, parameters, model=model))
        task = build_task(config)
        training = Training(task, config, ranks)
        parts = _count_parts(task)
        wrapped = training.prepare(ranks)
        for _ in range(STEPS):
            training.step(wrapped, next(training.data))
        metrics = training.evaluate(ranks)
    except ExitError as error:
        return {"error": str(error)}
    finally:
        torch.set_num_threads(threads)
    return {
        "weights": _digest(training.evaluated),
        "metrics": metrics,
        "rates": [training.schedule.learning_rate(step) for step in range(training.total_steps)],
        "parts": len(parts),
    }


def _count_parts(task: Any) -> list[int]:
    parts: list[int] = []
    loss = task.loss

    def counted(model: nn.Module, batch: Any) -> Tensor:
        parts.append(1)
        result: Tensor = loss(model, batch)
        return result

    task.loss = counted
    return parts


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(json.dumps([name, list(value.shape)]).encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
