"""The loop with a task of milliseconds, in real gloo groups: it knows no model, and a resumed run is the run never
stopped.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from trainings.ranks import run_ranks


def group(scenario: str, directory: Path, size: int, *numbers: float) -> dict[str, Any]:
    """Run a scenario of trainings.toy on `size` ranks; what rank 0 said."""
    arguments = [scenario, str(directory), *map(str, numbers)]
    said: dict[str, Any] = json.loads(run_ranks("trainings.toy", arguments, size, directory))
    return said


@pytest.mark.parametrize("parts", [1, 2])
def test_a_run_stopped_every_three_steps_ends_with_the_very_bits_of_the_run_never_stopped_on_three_ranks(
    tmp_path: Path, parts: int
) -> None:
    said = group("resume", tmp_path, 3, parts)
    # 104 points in batches of 12: 8 steps an epoch, so that most stops are in the middle of one.
    assert said["stops"] == [f"stopped at {step}" for step in range(3, 24, 3)]
    assert said["resumed"] == said["whole"]


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """The weights that the only run below this directory published."""
    (file,) = directory.rglob("artifacts/*/model.safetensors")
    return safetensors.torch.load_file(file)


def same(these: dict[str, torch.Tensor], those: dict[str, torch.Tensor]) -> None:
    """The same weights but for the rounding of sums in another order."""
    assert these.keys() == those.keys()
    for name in these:
        torch.testing.assert_close(these[name], those[name], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one rank learns with a batch of 8."""
    directory = tmp_path_factory.mktemp("alone")
    group("batch", directory, 1, 1)
    return weights(directory)


@pytest.mark.parametrize(("size", "parts"), [(2, 1), (3, 1), (1, 3), (2, 2)])
def test_ranks_that_share_a_batch_of_8_learn_what_one_rank_learns_with_it(
    tmp_path: Path, alone: dict[str, torch.Tensor], size: int, parts: int
) -> None:
    said = group("batch", tmp_path, size, parts)  # three ranks: 2, 3 and 3 samples; three parts of 8: 2, 3 and 3
    same(weights(tmp_path), alone)
    assert said["unasked"] == []  # what was not asked for, a rank does not import


def test_a_run_that_goes_on_with_other_numbers_of_ranks_sees_each_sample_once_an_epoch_and_learns_the_same(
    tmp_path: Path, alone: dict[str, torch.Tensor]
) -> None:
    attempts = [(2, 5), (3, 16), (1, 7), (2, 0)]  # (ranks, steps until a stop): 13 steps an epoch, three epochs
    steps: list[Counter[int]] = [Counter() for _ in range(39)]
    for attempt, (size, until) in enumerate(attempts, start=1):
        said = group("elastic", tmp_path, size, attempt, until)
        first = sum(stop for _, stop in attempts[: attempt - 1])
        assert said["ended"] == f"stopped at {first + until}" or not until
        for rank in range(size):
            visited = json.loads((tmp_path / f"visited-{attempt}-{rank}.json").read_text())
            assert min(map(int, visited)) == first + 1
            for step, samples in visited.items():
                steps[int(step) - 1].update(samples)
    for epoch in range(3):
        seen = sum(steps[13 * epoch : 13 * (epoch + 1)], Counter())
        assert seen == Counter(range(104))
    same(weights(tmp_path), alone)


@pytest.mark.parametrize(
    ("accuracies", "best", "final"),
    [
        pytest.param((0.5, 0.9, 0.7, 0.8), 0.9, 0.8, id="before the stop"),
        pytest.param((0.5, 0.6, 0.4, 0.7, 0.7, 0.3), 0.7, 0.3, id="of two equal ones the later, which is no better"),
    ],
)
def test_the_weights_of_the_best_evaluation_are_published_and_two_that_are_no_better_end_the_training(
    tmp_path: Path, accuracies: tuple[float, ...], best: float, final: float
) -> None:
    said = group("best", tmp_path, 1, *accuracies, 1.0)  # the last one is never asked for
    assert (said["first"], said["evaluations"]) == ("stopped at 30", len(set(accuracies)))
    published = {}
    for manifest in tmp_path.rglob("artifacts/*/modelyard.json"):
        described = json.loads(manifest.read_text())
        published[float(described["training"]["metrics"]["accuracy"])] = safetensors.torch.load_file(
            manifest.parent / "model.safetensors"
        )
    assert published.keys() == {best, final}
    for accuracy, weights_ in published.items():
        graded = safetensors.torch.load_file(tmp_path / f"graded-{accuracy}.safetensors")
        assert all(torch.equal(weights_[name], value) for name, value in graded.items())
