"""`causal-lm` on several ranks: what one rank learns, they learn, sharing gradients (DDP) or everything (FSDP)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor
from trainings.language import documents, group, pairs, run

# Epsilon: adamw makes steps of full size out of gradients that are nothing but rounding.
PARAMETERS: dict[str, Any] = {"epsilon": 1e-3, "maxSteps": 5, "batchSize": 5, "learningRate": 2e-3}


def weights(output: Path) -> dict[str, Tensor]:
    """The final weights of the only run there."""
    newest = max((output / "artifacts").iterdir(), key=lambda path: path.stat().st_mtime)
    return safetensors.torch.load_file(newest / "model.safetensors")


def same(these: dict[str, Tensor], those: dict[str, Tensor], within: float) -> None:
    """The same but for the rounding of sums in another order."""
    assert these.keys() == those.keys()
    for name in these:
        torch.testing.assert_close(these[name], those[name], rtol=0, atol=within)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], str]:
    """What one rank learns, and the data."""
    directory = tmp_path_factory.mktemp("alone")
    dataset = documents(directory / "data")
    run(directory / "out", dataset, **PARAMETERS)
    return weights(directory / "out"), dataset


def test_two_ranks_with_uneven_slices_that_share_no_volume_learn_the_same(
    alone: tuple[dict[str, Tensor], str], tmp_path: Path
) -> None:
    expected, dataset = alone
    group(2, tmp_path / "out", dataset, cache=tmp_path / "caches", **PARAMETERS)
    same(weights(tmp_path / "out"), expected, 1e-6)
    assert not (tmp_path / "out-elsewhere" / "prepared").exists()
    (sent,) = (tmp_path / "caches" / "1" / "modelyard" / "prepared").iterdir()
    assert (sent / "train.tokens").stat().st_size > 1000


def test_ranks_that_share_out_the_model_learn_the_same_and_each_saves_its_part(
    alone: tuple[dict[str, Tensor], str], tmp_path: Path
) -> None:
    expected, dataset = alone
    full = {**PARAMETERS, "sharding": "full", "accumulationSteps": 2}
    group(2, tmp_path / "cut", dataset, until=2, **full)
    (checkpoint,) = (tmp_path / "cut" / "checkpoints").glob("step-*")
    embedding = "decoder.embedding.weight"
    parts = [safetensors.torch.load_file(path)[embedding] for path in sorted(checkpoint.glob("model-*-of-00002.*"))]
    assert sum(len(part) for part in parts) == len(expected["transformer.wte.weight"]) > len(parts[0])
    assert len(list(checkpoint.glob("optimizer-*-of-00002.safetensors"))) == len(parts) == 2
    assert not list(checkpoint.parent.glob(".tmp-*"))

    shutil.copytree(tmp_path / "cut", tmp_path / "elsewhere")
    run(tmp_path / "elsewhere", dataset, **full)  # one rank goes on
    same(weights(tmp_path / "elsewhere"), expected, 1e-5)

    group(2, tmp_path / "cut", dataset, **full)
    group(2, tmp_path / "whole", dataset, **full)
    same(weights(tmp_path / "cut"), weights(tmp_path / "whole"), 0)
    same(weights(tmp_path / "cut"), expected, 1e-5)


def test_ranks_that_share_out_the_model_and_no_volume_save_whole_tensors(
    alone: tuple[dict[str, Tensor], str], tmp_path: Path
) -> None:
    expected, dataset = alone
    group(2, tmp_path / "cut", dataset, until=2, cache=tmp_path / "caches", **PARAMETERS, sharding="full")
    (checkpoint,) = (tmp_path / "cut" / "checkpoints").glob("step-*")
    saved = safetensors.torch.load_file(checkpoint / "model.safetensors")
    assert saved["decoder.embedding.weight"].shape == expected["transformer.wte.weight"].shape


def test_answers_are_weighted_by_their_number_over_all_ranks(tmp_path: Path) -> None:
    dataset = pairs(tmp_path / "data")
    parameters = {**PARAMETERS, "dataFormat": "pairs", "epochs": 3, "evaluationFraction": 0.1}
    run(tmp_path / "alone", dataset, **parameters)
    group(2, tmp_path / "together", dataset, **parameters)
    same(weights(tmp_path / "together"), weights(tmp_path / "alone"), 1e-6)
