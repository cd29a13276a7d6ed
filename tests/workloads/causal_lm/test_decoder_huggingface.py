"""The decoder beside transformers: the same weights, logits and gradients; what cannot be computed is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from modelyard_workloads.exits import DataError
from modelyard_workloads.models.decoder import Decoder, DecoderConfig, RotaryScaling
from modelyard_workloads.models.decoder_huggingface import (
    decoder_config,
    from_huggingface,
    huggingface_config,
    read_directory,
    to_huggingface,
)
from torch import Tensor

transformers: Any = import_module("transformers")  # its types promise more than its code keeps

GPT2 = DecoderConfig.gpt2(vocabulary=97, context=24, layers=2, width=32, heads=4)
LLAMA = DecoderConfig.llama(vocabulary=97, context=24, layers=2, width=32, heads=4, key_value_heads=2, tied_head=False)
STRETCHED = replace(
    LLAMA,
    tied_head=True,
    attention_bias=True,
    rotary_base=500.0,
    rotary_scaling=RotaryScaling(kind="llama3", factor=4.0, original_context=12),
)
CONFIGS = [
    pytest.param(GPT2, id="gpt2"),
    pytest.param(LLAMA, id="llama"),
    pytest.param(STRETCHED, id="llama-3.1 positions"),
    pytest.param(replace(LLAMA, rotary_scaling=RotaryScaling(kind="linear", factor=2.0)), id="linear positions"),
]


def built(config: DecoderConfig) -> Decoder:
    """A decoder in which no weight is what another one is by accident."""
    torch.manual_seed(1)
    model = Decoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def saved(model: Decoder, directory: Path) -> None:
    """The model as a directory that transformers loads."""
    config = huggingface_config(model.config, end_token=0)
    (directory / "config.json").write_text(json.dumps(config))
    weights = to_huggingface(model.config, model.state_dict())
    safetensors.torch.save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


def tokens() -> Tensor:
    """Three rows of 20 tokens."""
    return torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("config", CONFIGS)
def test_transformers_loads_ours_with_equal_logits_and_gradients(config: DecoderConfig, tmp_path: Path) -> None:
    ours = built(config)
    saved(ours, tmp_path)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    theirs.eval()
    rows = tokens()
    logits = ours(rows)
    torch.testing.assert_close(logits, theirs(rows).logits, rtol=1e-5, atol=1e-5)

    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    loss.backward()  # type: ignore[no-untyped-call]
    other = theirs(rows, labels=rows).loss
    other.backward()
    torch.testing.assert_close(loss, other, rtol=1e-5, atol=1e-5)
    gradients = {name: value.grad for name, value in ours.named_parameters() if value.grad is not None}
    expected = {name: value.grad for name, value in theirs.named_parameters()}
    renamed = to_huggingface(config, gradients)
    assert renamed.keys() == expected.keys()
    for name, gradient in renamed.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_transformers_saves_is_loaded_with_equal_logits(config: DecoderConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    raw = huggingface_config(config, end_token=0)
    kind = {"gpt2": transformers.GPT2Config, "llama": transformers.LlamaConfig}[config.family]
    theirs = transformers.AutoModelForCausalLM.from_config(kind(**raw)).eval()
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")  # in several files, as large models are
    found, weights = read_directory(tmp_path)
    assert found == config
    ours = Decoder(found)
    ours.load_state_dict(weights)
    rows = tokens()
    torch.testing.assert_close(ours.eval()(rows), theirs(rows).logits, rtol=1e-5, atol=1e-5)


def test_every_weight_survives_the_way_there_and_back() -> None:
    for config in (GPT2, LLAMA, STRETCHED):
        weights = built(config).state_dict()
        back = from_huggingface(config, to_huggingface(config, weights))
        assert back.keys() == weights.keys()
        assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_attention_is_the_callers() -> None:
    """What a server does: rows of one new token each, keys and values of the past kept by layer."""
    model = built(LLAMA)
    rows = tokens()
    past: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if layer in past:
            key, value = torch.cat([past[layer][0], key], 1), torch.cat([past[layer][1], value], 1)
        past[layer] = (key, value)
        query, key, value = (t.transpose(1, 2) for t in (query, key, value))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True).transpose(1, 2)

    steps = [model(rows[:, i : i + 1], torch.full((3, 1), i), attend) for i in range(rows.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), model(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert' is not supported; it must be one of gpt2, llama"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected silu"),
        ({"mlp_bias": True}, "mlp_bias is true, expected false"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type is 'yarn', expected default, linear or llama3"),
        ({"hidden_size": None}, "is missing or wrong for model_type llama"),
    ],
)
def test_a_configuration_that_this_decoder_does_not_compute_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        decoder_config(huggingface_config(LLAMA, end_token=0) | changes)


def test_weights_that_do_not_fit_are_named() -> None:
    weights = to_huggingface(GPT2, built(GPT2).state_dict())
    weights.pop("transformer.h.1.ln_2.bias")
    with pytest.raises(DataError, match=r"the weights have no transformer\.h\.1\.ln_2\.bias"):
        from_huggingface(GPT2, weights)
    with pytest.raises(DataError, match=r"transformer\.wte\.weight has shape \[97, 32\], config\.json asks for \[98"):
        from_huggingface(replace(GPT2, vocabulary=98), weights)
