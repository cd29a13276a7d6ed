"""From an artifact to an engine: the golden gate, and what cannot be served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from modelyard_workloads.artifact import Artifact
from modelyard_workloads.serve.errors import LoadFailure
from modelyard_workloads.serve.generation.runtime import GenerationRuntime
from modelyard_workloads.serve.loading import load
from servers import language
from servers.inprocess import configure


def loaded(artifact: Artifact, **sections: Any) -> GenerationRuntime:
    model = {"name": "story", "path": str(artifact.path)}
    runtime = load(configure(**{"generation": {"kvCacheMemory": 1_000_000}, **sections, "model": model})).runtime
    assert isinstance(runtime, GenerationRuntime)
    return runtime


def edited(artifact: Artifact, change: Any) -> Artifact:
    path = artifact.path / "modelyard.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return artifact


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_both_families_are_loaded_and_reproduce_their_golden_answers(
    tmp_path: Path, family: Literal["gpt2", "llama"]
) -> None:
    artifact = language.language_artifact(tmp_path, family=family)
    runtime = loaded(artifact, validation={"golden": "Required"})
    assert runtime.engine.limits.max_length == language.CONTEXT
    assert runtime.language.ends == {256}
    assert runtime.language.vocabulary == 257


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_half_the_bits_are_as_near_as_they_can_be_and_no_nearer(
    tmp_path: Path, family: Literal["gpt2", "llama"]
) -> None:
    def another_logit(manifest: Any) -> None:
        manifest["golden"][0]["outputs"][0]["data"][1][77] += 1.0

    settings = {"kvCacheMemory": 1_000_000, "dtype": "bfloat16"}
    artifact = language.language_artifact(tmp_path, family=family)
    runtime = loaded(artifact, generation=settings, validation={"golden": "Required"})
    assert runtime.engine.dtype == torch.bfloat16
    assert runtime.engine.pool.count == 2 * loaded(artifact).engine.pool.count
    with pytest.raises(LoadFailure, match="of token 77"):
        loaded(edited(artifact, another_logit), generation=settings)


def test_an_artifact_that_answers_otherwise_is_not_served(tmp_path: Path) -> None:
    def another_token(manifest: Any) -> None:
        manifest["preprocess"]["greedy"][1]["continuation"][5] ^= 1

    def another_logit(manifest: Any) -> None:
        manifest["golden"][0]["outputs"][0]["data"][1][77] += 0.1

    for number, (change, words) in enumerate(
        [
            (another_token, r"greedy\[1\]: token 5 of the continuation is"),
            (another_logit, r"golden\[0\], row 1: 1 of 257 log-probabilities differ .* of token 77"),
        ]
    ):
        artifact = edited(language.language_artifact(tmp_path / str(number)), change)
        with pytest.raises(LoadFailure, match=words) as caught:
            loaded(artifact)
        assert caught.value.reason == "GoldenMismatch"
        loaded(artifact, validation={"golden": "Off"})


def test_golden_answers_may_be_required(tmp_path: Path) -> None:
    artifact = language.language_artifact(tmp_path, golden=False)
    loaded(artifact)
    with pytest.raises(LoadFailure, match="has no golden answers"):
        loaded(artifact, validation={"golden": "Required"})


def test_limits_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    artifact = language.language_artifact(tmp_path)
    assert loaded(artifact, generation={"maxModelLen": 64}).engine.limits.max_length == 64
    with pytest.raises(LoadFailure, match=r"maxModelLen is 129, the model was built for 128 tokens: write at most 128"):
        loaded(artifact, generation={"maxModelLen": 129})
