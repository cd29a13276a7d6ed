"""Every trainer of BERT's family: two ranks learn what one does, a stopped run ends with the bits of the whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings.builtin import configuration, run, run_on_ranks, weights
from trainings.texts import EXACT, SMALL, conll, squad

TASKS = ["bert-pretraining", "text-classification", "token-classification", "question-answering"]
# 9 rows in two parts on two ranks: 3, 2, 2 and 2
_COMMON: dict[str, Any] = {"vocabularySize": 256, "accumulationSteps": 2}
_OWN: dict[str, dict[str, Any]] = {
    "text-classification": {
        "textColumn": "a",
        "secondTextColumn": "b",
        "labelColumn": "same",
        "labelSmoothing": 0.1,
    },
    "question-answering": {"stride": 8},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, corpus: str) -> dict[str, str]:
    """A data set for each trainer."""
    root = tmp_path_factory.mktemp("data")
    seconds = [n if n % 2 else n + 1 for n in range(120)]
    pairs = [{"a": f"the number {n}", "b": f"the number {m}", "same": str(n == m)} for n, m in enumerate(seconds)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    (root / "people.conll").write_text(conll(range(96)))
    (root / "owners.json").write_text(json.dumps(squad(range(60))))
    names = ("pairs.jsonl", "people.conll", "owners.json")
    return dict(zip(TASKS, [corpus, *((root / name).as_uri() for name in names)], strict=True))


def config(task: str, data: dict[str, str], output: Path, base: dict[str, Any], **more: Any) -> dict[str, Any]:
    return configuration(task, output, data[task], {**base, **_COMMON, **_OWN.get(task, {})}, **more)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, data: dict[str, str]) -> tuple[Path, list[dict[str, Any]]]:
    """What two ranks learn that see nothing of each other's disks."""
    apart = tmp_path_factory.mktemp("apart")
    return apart, run_on_ranks(2, [(config(task, data, Path(task), EXACT), 0) for task in TASKS], apart=apart)


@pytest.mark.parametrize("task", TASKS)
def test_two_ranks_learn_what_one_does(
    tmp_path: Path, data: dict[str, str], together: tuple[Path, list[dict[str, Any]]], task: str
) -> None:
    alone = config(task, data, tmp_path, EXACT)
    alone["parameters"]["accumulationSteps"] = 1
    expected = weights(run(alone), alone)
    apart, results = together
    found = weights(results[TASKS.index(task)], config(task, data, apart / "0" / task, EXACT))
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    (made,) = (apart / "0" / task / "cache").iterdir()
    copied = apart / "1" / "cache" / "modelyard" / "prepared" / made.name
    assert {p.name: p.read_bytes() for p in made.iterdir()} == {p.name: p.read_bytes() for p in copied.iterdir()}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_very_bits_of_the_run_never_stopped(
    tmp_path: Path, data: dict[str, str], task: str
) -> None:
    whole = config(task, data, tmp_path / "whole", SMALL)
    expected = weights(run(whole), whole)
    parts = [config(task, data, tmp_path / "parts", SMALL, attempt=attempt) for attempt in (1, 2, 3)]
    assert [run(part, stop=2) for part in parts[:2]] == [{"stopped": 2}, {"stopped": 4}]
    found = weights(run(parts[2]), parts[2])
    assert all(torch.equal(found[name], expected[name]) for name in expected)
