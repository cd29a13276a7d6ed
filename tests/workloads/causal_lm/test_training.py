"""`causal-lm` from data to artifact: it learns, it resumes with the same bits, transformers loads what it makes."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from modelyard_workloads.artifact import read_artifact
from modelyard_workloads.exits import Stopped
from modelyard_workloads.serve.loading import load
from modelyard_workloads.tasks import build_model_from_artifact
from servers.inprocess import configure
from torch import Tensor
from trainings.language import GIVEN, documents, pairs, run
from trainings.toy import after

transformers: Any = import_module("transformers")


def weights(directory: Path) -> dict[str, Tensor]:
    """What was published."""
    return safetensors.torch.load_file(directory / "model.safetensors")


def same(these: dict[str, Tensor], those: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return these.keys() == those.keys() and all(torch.equal(these[name], those[name]) for name in these)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """Result, artifact and data of a run that learned something."""
    directory = tmp_path_factory.mktemp("base")
    dataset = documents(directory / "data")
    return *run(directory / "out", dataset, maxSteps=40, epochs=10, contextLength=64), dataset


def test_it_learns(base: tuple[dict[str, Any], Path, str]) -> None:
    result, _, _ = base
    assert float(result["metrics"]["bitsPerByte"]) < 1.5  # random bytes need 8


def test_transformers_loads_the_artifact_and_answers_as_recorded(base: tuple[dict[str, Any], Path, str]) -> None:
    _, directory, _ = base
    artifact = read_artifact(directory)
    (golden,) = artifact.manifest.golden
    prompts = torch.tensor(golden.inputs[0].data)
    recorded = torch.tensor(golden.outputs[0].data)
    ours = build_model_from_artifact(artifact)({"input_ids": prompts})["logits"]
    torch.testing.assert_close(ours, recorded, rtol=1e-5, atol=1e-5)

    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    torch.testing.assert_close(theirs(prompts).logits[:, -1], recorded, rtol=1e-5, atol=1e-5)
    for case in artifact.manifest.preprocess["greedy"]:
        prompt = torch.tensor([case["prompt"]])
        said = theirs.generate(prompt, max_new_tokens=16, do_sample=False, attention_mask=torch.ones_like(prompt))
        assert said[0, prompt.shape[1] :].tolist() == case["continuation"][: said.shape[1] - prompt.shape[1]]

    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    assert tokenizer.decode(tokenizer("The quick fox.")["input_ids"]) == "The quick fox."
    assert tokenizer.eos_token_id == 0
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<|user|>hi<|assistant|>"


@pytest.mark.parametrize("parameters", [{}, {"dropout": 0.1, "accumulationSteps": 2, "emaDecay": 0.9}])
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits(
    tmp_path: Path, parameters: dict[str, Any]
) -> None:
    dataset = documents(tmp_path / "data")
    _, whole = run(tmp_path / "whole", dataset, **parameters)
    with pytest.raises(Stopped):
        run(tmp_path / "cut", dataset, stop=after(3), **parameters)
    result, resumed = run(tmp_path / "cut", dataset, **parameters)
    assert result["step"] == 8
    assert same(weights(whole), weights(resumed))
    assert len(list((tmp_path / "cut" / "prepared").iterdir())) == 1  # the tokens were made once


def test_llama_trains_too(tmp_path: Path) -> None:
    result, directory = run(
        tmp_path / "out", documents(tmp_path / "data"), architecture="llama", keyValueHeads=2, documentMask=True
    )
    assert json.loads((directory / "config.json").read_bytes())["num_key_value_heads"] == 2
    assert float(result["metrics"]["evaluationLoss"]) < 6.3  # log(512) is 6.24


def test_the_engine_that_serves_it_reproduces_what_was_recorded(base: tuple[dict[str, Any], Path, str]) -> None:
    model = {"name": "gpt", "path": str(base[1])}
    loaded = load(configure(model=model, validation={"golden": "Required"}))
    assert loaded.runtime.task == "causal-lm"


def test_full_fine_tuning_goes_on_from_an_artifact(base: tuple[dict[str, Any], Path, str], tmp_path: Path) -> None:
    before, directory, dataset = base
    start = run(
        tmp_path / "out", dataset, directory.as_uri(), **GIVEN, contextLength=64, maxSteps=1, learningRate=1e-9
    )[0]
    assert float(start["metrics"]["bitsPerByte"]) == pytest.approx(float(before["metrics"]["bitsPerByte"]), rel=1e-3)


def test_lora_learns_answers_saves_adapters_alone_and_publishes_a_plain_model(
    base: tuple[dict[str, Any], Path, str], tmp_path: Path
) -> None:
    _, directory, _ = base
    parameters = GIVEN | {
        "dataFormat": "pairs",
        "lora": {"rank": 4, "alpha": 8},
        "epochs": 20,
        "maxSteps": 30,
        "learningRate": 2e-2,
    }
    dataset = pairs(tmp_path / "data")
    first = run(tmp_path / "first", dataset, directory.as_uri(), **(parameters | {"maxSteps": 1}))[0]
    result, tuned = run(tmp_path / "whole", dataset, directory.as_uri(), **parameters)
    assert float(result["metrics"]["evaluationLoss"]) < 0.7 * float(first["metrics"]["evaluationLoss"])

    (checkpoint,) = (tmp_path / "whole" / "checkpoints").iterdir()
    saved = safetensors.torch.load_file(checkpoint / "model.safetensors")
    assert saved
    assert all(name.endswith((".down", ".up")) for name in saved)
    before, after_it = weights(directory), weights(tuned)
    assert before.keys() == after_it.keys()
    changed = {name for name in before if not torch.equal(before[name], after_it[name])}
    assert changed == {name for name in before if "attn.c" in name or "mlp.c" in name if name.endswith("weight")}

    with pytest.raises(Stopped):
        run(tmp_path / "cut", dataset, directory.as_uri(), stop=after(11), **parameters)
    assert same(weights(run(tmp_path / "cut", dataset, directory.as_uri(), **parameters)[1]), after_it)
