"""Whole runs of `causal-lm` on one rank, small enough for a test, and data for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelyard_workloads.config import parse
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.exits import Stopped
from modelyard_workloads.loop import train
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.tasks import build_task

from trainings.ranks import run_ranks
from trainings.toy import after

TINY = {
    "layers": 2,
    "width": 32,
    "heads": 4,
    "vocabularySize": 512,
    "contextLength": 32,
    "batchSize": 4,
    "epochs": 1,
    "learningRate": 1e-2,
    "evaluationFraction": 0.2,
    "evaluationTokens": 500,
    "maxSteps": 8,
}
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "then", "sleeps")


def documents(directory: Path, count: int = 60) -> str:
    """The address of a JSONL file of short documents, the same every time."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"text": " ".join(WORDS[(i * 7 + j * (i % 5 + 1)) % len(WORDS)] for j in range(40)) + "."})
        for i in range(count)
    ]
    (directory / "documents.jsonl").write_text("\n".join(lines) + "\n")
    return directory.as_uri()


def pairs(directory: Path, count: int = 80) -> str:
    """The address of a JSONL file of prompts and answers: the answer repeats the prompt's last word."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        words = [WORDS[(i * 5 + j) % len(WORDS)] for j in range(1 + i % 6)]
        lines.append(json.dumps({"prompt": " ".join(words), "answer": words[-1]}))
    (directory / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return directory.as_uri()


def raw(output: Path, dataset: str, model: str = "", **parameters: Any) -> dict[str, Any]:
    """MODELYARD_CONFIG of a tiny run."""
    return {
        "task": "causal-lm",
        "parameters": {name: value for name, value in ({**TINY, **parameters}).items() if value is not None},
        "dataset": {"uri": dataset},
        "model": {"uri": model},
        "output": {"path": str(output), "uri": ""},
        "checkpoint": {"everySteps": 1000, "everySeconds": None},
    }


def run(
    output: Path, dataset: str, model: str = "", stop: Callable[[], bool] = lambda: False, **parameters: Any
) -> tuple[dict[str, Any], Path]:
    """The result of a run, and the directory of its final artifact."""
    config = parse(raw(output, dataset, model, **parameters))
    result = train(build_task(config), config, Ranks(RankInfo()), Reporter(rank=1), stop)
    (final,) = [a for a in result["artifacts"] if a["name"] == "final"]
    return result, output / "artifacts" / final["uri"].rsplit("/", 1)[1]


def group(
    size: int, output: Path, dataset: str, *, until: int = 0, cache: Path | None = None, **parameters: Any
) -> None:
    """The same run on several ranks, stopped after `until` steps; with `cache`, the ranks share no volume but for rank
    0's, and each has a cache of its own below it.
    """
    environment = {"LANGUAGE_RUN": json.dumps(raw(output, dataset, **parameters)), "LANGUAGE_UNTIL": str(until)}
    each: list[dict[str, str]] = []
    if cache:
        alone = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        own = [{"XDG_CACHE_HOME": str(cache / str(i)), "LANGUAGE_HIDDEN": str(i > 0)} for i in range(size)]
        each = [alone | mine for mine in own]
    run_ranks("trainings.language", [], size, output, environment, each)


def main() -> None:
    """One rank of `group`."""
    said = json.loads(os.environ["LANGUAGE_RUN"])
    ranks = Ranks(RankInfo.from_environment(os.environ))
    if os.environ.get("LANGUAGE_HIDDEN") == "True":  # another machine: rank 0's directory is not there
        said["output"]["path"] += "-elsewhere"
    config = parse(said)
    task = build_task(config)
    ranks.start()
    until = int(os.environ["LANGUAGE_UNTIL"])
    try:
        train(task, config, ranks, Reporter(rank=1), after(until) if until else lambda: False)
    except Stopped:
        if not until:
            raise
    ranks.stop()


# A model is given: its shape is no parameter.
GIVEN: dict[str, Any] = dict.fromkeys(("layers", "width", "heads", "vocabularySize"))


if __name__ == "__main__":
    main()
