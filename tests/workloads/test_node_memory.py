"""Ranks of one node tell each other through memory that they share what they would tell through sockets else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trainings.ranks import run_ranks


def said(case: str, size: int, directory: Path, *refusing: int) -> dict[str, Any]:
    """What rank 0 found in a case of `trainings.one_node`."""
    printed: dict[str, Any] = json.loads(run_ranks("trainings.one_node", [case, *map(str, refusing)], size, directory))
    return printed


@pytest.mark.parametrize("refusing", [(), (1,), (0, 1, 2)], ids=["all", "one cannot", "no system for it"])
def test_ranks_agree_with_and_without_it(tmp_path: Path, refusing: tuple[int, ...]) -> None:
    assert said("agreements", 3, tmp_path, *refusing) == {
        "agree": [True, False],
        "maximum": 12,
        "sum": [3.0, 3.0],
        "gather": ["", "x", "xx"],
        "left": [],  # nothing of it stays open
    }


@pytest.mark.parametrize("size", [2, 3])
def test_sums_of_any_shape_type_and_size_are_the_same_on_all_ranks(tmp_path: Path, size: int) -> None:
    assert said("sums", size, tmp_path)["left"] == []


@pytest.mark.parametrize("refusing", [(), (1,)], ids=["shared", "sockets"])
def test_lists_of_uneven_tensors_are_gathered(tmp_path: Path, refusing: tuple[int, ...]) -> None:
    answer = said("uneven", 3, tmp_path, *refusing)
    assert answer["found"] == [[0, 2], [1000, 2], [2000, 2]]
    assert answer["last"] == 2


def test_a_step_waits_three_times_for_the_others_however_many_buckets_it_has(tmp_path: Path) -> None:
    # Once until the last step's is read, once for the gradients of all, and once for their sums.
    assert said("waits", 2, tmp_path)["waits"] == 3


def test_a_rank_that_ends_is_missed_at_once(tmp_path: Path) -> None:
    assert said("gone", 2, tmp_path) == {"lost": "rank 1 is gone"}


def test_a_rank_that_does_not_come_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    assert said("late", 2, tmp_path)["lost"] == "rank 1 did not come to the same point within 0.2 s"
