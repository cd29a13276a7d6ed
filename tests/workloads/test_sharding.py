"""Ranks that share a model compute in step, whatever their shares of the held-out data are, and save it together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from modelyard_workloads.exits import DataError
from modelyard_workloads.parts import PartStore
from modelyard_workloads.sharding import in_step
from modelyard_workloads.snapshot import Snapshot


def parts(root: Path, rank: int, patience: float = 30) -> PartStore:
    """The checkpoints as one of two ranks sees them."""
    return PartStore(root=root, attempt=3, rank=rank, ranks=2, patience=patience)


def half(rank: int) -> Snapshot:
    """What one of two ranks holds."""
    return Snapshot({}, {f"model{parts(Path(), rank).suffix}": {"weight": torch.full((2,), float(rank))}})


def test_rank_0_takes_what_the_others_wrote_and_leaves_nothing_of_earlier_tries(tmp_path: Path) -> None:
    into = tmp_path / "unfinished"
    into.mkdir()
    parts(tmp_path, 1).save(4, half(1))  # the checkpoint of step 4 failed
    parts(tmp_path, 1).save(8, half(1))
    (entry,) = parts(tmp_path, 0).collect(8, into)
    assert entry["path"] == "model-00002-of-00002.safetensors"
    assert entry["size"] == (into / entry["path"]).stat().st_size
    assert list(tmp_path.iterdir()) == [into]


def test_a_part_that_could_not_be_written_or_does_not_come_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="rank 1 has not written its part within 0 s"):
        parts(tmp_path, 0, patience=0).collect(4, tmp_path)
    in_the_way = tmp_path / ".tmp-parts-3-0000000004" / "model-00002-of-00002.safetensors"
    in_the_way.mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        parts(tmp_path, 1).save(4, half(1))
    with pytest.raises(OSError, match=r"rank 1 could not write its part: .*Is a directory"):
        parts(tmp_path, 0).collect(4, tmp_path)


def test_a_rank_with_less_to_evaluate_computes_its_last_batch_again_and_does_not_count_it() -> None:
    assert list(in_step("abc", least=2, most=3)) == [("a", True), ("b", True), ("c", True)]
    assert list(in_step("ab", least=2, most=3)) == [("a", True), ("b", True), ("b", False)]


@pytest.mark.parametrize("batches", ["", "a"], ids=["the rank without any", "the others"])
def test_a_rank_without_held_out_data_is_an_error_on_all_of_them(batches: str) -> None:
    with pytest.raises(DataError, match="fewer batches than there are ranks"):
        in_step(batches, least=0, most=1)
