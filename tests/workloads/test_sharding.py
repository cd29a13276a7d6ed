"""Ranks that share a model compute in step, whatever their shares of the held-out data are."""

from __future__ import annotations

import pytest
from modelyard_workloads.exits import DataError
from modelyard_workloads.sharding import in_step


def test_a_rank_with_less_to_evaluate_computes_its_last_batch_again_and_does_not_count_it() -> None:
    assert list(in_step("abc", least=2, most=3)) == [("a", True), ("b", True), ("c", True)]
    assert list(in_step("ab", least=2, most=3)) == [("a", True), ("b", True), ("b", False)]


@pytest.mark.parametrize("batches", ["", "a"], ids=["the rank without any", "the others"])
def test_a_rank_without_held_out_data_is_an_error_on_all_of_them(batches: str) -> None:
    with pytest.raises(DataError, match="fewer batches than there are ranks"):
        in_step(batches, least=0, most=1)
