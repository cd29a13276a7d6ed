"""The decoder in Hugging Face's layout and back: the names and shapes of GPT2LMHeadModel and LlamaForCausalLM.

What differs from ours: GPT-2 stores its projections transposed (Conv1D); Llama has query, key and value, and gate and
up, apart. A checkpoint that asks for something this decoder does not compute is refused, field by field, rather than
loaded and wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from modelyard_workloads.exits import DataError
from modelyard_workloads.models.decoder import Decoder, DecoderConfig, RotaryScaling
from modelyard_workloads.models.uninitialised import Uninitialised

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
_ACTIVATIONS: dict[str, Literal["gelu", "gelu_tanh", "silu"]] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
}
# ours -> theirs, below a block
_GPT2_BLOCK = {
    "attention_norm": "ln_1",
    "attention.project": "attn.c_attn",
    "attention.merge": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward.expand": "mlp.c_fc",
    "feed_forward.contract": "mlp.c_proj",
}
_LLAMA_BLOCK = {
    "attention_norm": "input_layernorm",
    "attention.merge": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.contract": "mlp.down_proj",
}


def huggingface_config(config: DecoderConfig, *, end_token: int, begin_token: int | None = None) -> dict[str, Any]:
    """`config.json` for transformers; the two tokens are ids."""
    begin = end_token if begin_token is None else begin_token
    common = {
        "architectures": [_ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocabulary,
        "tie_word_embeddings": config.tied_head,
        "torch_dtype": "float32",
        "bos_token_id": begin,
        "eos_token_id": end_token,
        "use_cache": True,
    }
    if config.family == "gpt2":
        return common | {
            "n_positions": config.context,
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": config.inner,
            "activation_function": "gelu_new" if config.activation == "gelu_tanh" else "gelu",
            "layer_norm_epsilon": config.norm_epsilon,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
        }
    rotary: dict[str, Any] = {"rope_type": "default"}
    if scaling := config.rotary_scaling:
        rotary = {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rotary |= {
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.original_context,
            }
    return common | {
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.inner,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "attention_bias": config.attention_bias,
        "mlp_bias": False,
        "rope_theta": config.rotary_base,
        # Both spellings: the older one is read by other programs and by transformers before 5.
        "rope_scaling": rotary if config.rotary_scaling else None,
        "rope_parameters": rotary | {"rope_theta": config.rotary_base},
    }


def decoder_config(raw: Mapping[str, Any]) -> DecoderConfig:
    """Our configuration from a `config.json`. Raises DataError that names every field that cannot be computed here."""
    family = raw.get("model_type")
    if family not in _ARCHITECTURES:
        raise DataError(f"{CONFIG}: model_type {family!r} is not supported; it must be one of gpt2, llama")
    problems = list(_unsupported(raw))
    if problems:
        raise DataError(f"{CONFIG}: " + "; ".join(problems))
    try:
        return _gpt2(raw) if family == "gpt2" else _llama(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{CONFIG}: {error} is missing or wrong for model_type {family}") from None


def _unsupported(raw: Mapping[str, Any]) -> Iterator[str]:
    gpt2 = raw["model_type"] == "gpt2"
    field = "activation_function" if gpt2 else "hidden_act"
    known = ("gelu", "gelu_new", "gelu_pytorch_tanh") if gpt2 else ("silu",)
    if raw.get(field, known[-1]) not in known:
        yield f"{field} is {raw[field]!r}, expected {' or '.join(known)}"
    for name, expected in (("scale_attn_by_inverse_layer_idx", False), ("add_cross_attention", False)):
        if gpt2 and raw.get(name, expected) != expected:
            yield f"{name} is {raw[name]!r}, expected {expected}"
    if not gpt2 and raw.get("mlp_bias"):
        yield "mlp_bias is true, expected false"
    kind = _rotary(raw).get("rope_type", "default")
    if not gpt2 and kind not in ("default", "linear", "llama3"):
        yield f"rope_type is {kind!r}, expected default, linear or llama3"


def _rotary(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings under either spelling; `type` is an older name of `rope_type`."""
    found = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    if "type" in found:
        found.setdefault("rope_type", found.pop("type"))
    return found


def _gpt2(raw: Mapping[str, Any]) -> DecoderConfig:
    width = int(raw["n_embd"])
    return DecoderConfig(
        family="gpt2",
        vocabulary=int(raw["vocab_size"]),
        context=int(raw.get("n_positions") or raw["n_ctx"]),
        layers=int(raw["n_layer"]),
        width=width,
        heads=int(raw["n_head"]),
        key_value_heads=int(raw["n_head"]),
        head_width=width // int(raw["n_head"]),
        inner=int(raw.get("n_inner") or 4 * width),
        activation=_ACTIVATIONS[raw.get("activation_function", "gelu_new")],
        tied_head=bool(raw.get("tie_word_embeddings", True)),
        norm_epsilon=float(raw.get("layer_norm_epsilon", 1e-5)),
        dropout=float(raw.get("resid_pdrop", 0.0)),
    )


def _llama(raw: Mapping[str, Any]) -> DecoderConfig:
    width, heads = int(raw["hidden_size"]), int(raw["num_attention_heads"])
    rotary = _rotary(raw)
    kind = rotary.get("rope_type", "default")
    scaling = None
    if kind != "default":
        scaling = RotaryScaling(
            kind=kind,
            factor=float(rotary["factor"]),
            low_frequency_factor=float(rotary.get("low_freq_factor", 1.0)),
            high_frequency_factor=float(rotary.get("high_freq_factor", 4.0)),
            original_context=int(rotary.get("original_max_position_embeddings", 8192)),
        )
    return DecoderConfig(
        family="llama",
        vocabulary=int(raw["vocab_size"]),
        context=int(raw["max_position_embeddings"]),
        layers=int(raw["num_hidden_layers"]),
        width=width,
        heads=heads,
        key_value_heads=int(raw.get("num_key_value_heads") or heads),
        head_width=int(raw.get("head_dim") or width // heads),
        inner=int(raw["intermediate_size"]),
        activation="silu",
        tied_head=bool(raw.get("tie_word_embeddings", False)),
        norm_epsilon=float(raw.get("rms_norm_eps", 1e-6)),
        rotary_base=float(rotary.get("rope_theta") or raw.get("rope_theta") or 10_000.0),
        rotary_scaling=scaling,
        attention_bias=bool(raw.get("attention_bias", False)),
    )


def to_huggingface(config: DecoderConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under their names; a tied head is in neither."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        found.update(_theirs(config, name, value))
    return {name: value.contiguous() for name, value in found.items()}


def from_huggingface(
    config: DecoderConfig, tensors: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Their tensors under our names, as numbers of this type. Raises DataError that names what is missing or has
    another shape.
    """
    tensors = _with_prefix(config, tensors)
    ours: dict[str, Tensor] = {}
    missing: list[str] = []
    for name, shape in _shapes(config).items():
        names = list(_theirs(config, name, torch.empty(shape, device="meta")))
        absent = [n for n in names if n not in tensors]
        if absent:
            missing += absent
            continue
        parts = [tensors[n].T if _transposed(config, name) else tensors[n] for n in names]
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        if value.shape != shape:
            raise DataError(f"{names[0]} has shape {list(value.shape)}, {CONFIG} asks for {list(shape)}")
        ours[name] = value.to(dtype).contiguous()
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"the weights have no {', '.join(missing[:3])}{more}")
    return ours


def read_directory(path: Path, *, dtype: torch.dtype = torch.float32) -> tuple[DecoderConfig, dict[str, Tensor]]:
    """Configuration and weights (ours, of this type) of a directory in Hugging Face's layout. Raises DataError."""
    try:
        raw = json.loads((path / CONFIG).read_bytes())
        config = decoder_config(raw)
        if (path / INDEX).exists():
            names = sorted(set(json.loads((path / INDEX).read_bytes())["weight_map"].values()))
        else:
            names = [WEIGHTS]
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors.update(safetensors.torch.load_file(path / Path(name).name))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: {error.filename}; expected {CONFIG} and {WEIGHTS}") from None
    except (ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise DataError(f"{path}: {type(error).__name__}: {error}") from None
    return config, from_huggingface(config, tensors, dtype=dtype)


def _shapes(config: DecoderConfig) -> dict[str, torch.Size]:
    """The shapes of our weights, without making them."""
    with Uninitialised(), torch.device("meta"):
        return {name: value.shape for name, value in Decoder(config).state_dict().items()}


def _with_prefix(config: DecoderConfig, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The first GPT-2 checkpoints were saved without the head and its prefix `transformer.`."""
    if config.family == "gpt2" and "wte.weight" in tensors:
        return {f"transformer.{name}": value for name, value in tensors.items()}
    return tensors


def _transposed(config: DecoderConfig, name: str) -> bool:
    parts = ("attention.project", "attention.merge", "feed_forward.expand", "feed_forward.contract")
    return config.family == "gpt2" and name.endswith(tuple(f"{part}.weight" for part in parts))


def _theirs(config: DecoderConfig, name: str, value: Tensor) -> dict[str, Tensor]:
    """One of our tensors as theirs: name -> tensor, in the order in which they are put together again."""
    base = "transformer" if config.family == "gpt2" else "model"
    outer = {
        "embedding.weight": "wte.weight" if config.family == "gpt2" else "embed_tokens.weight",
        "position_embedding.weight": "wpe.weight",
        "norm.weight": "ln_f.weight" if config.family == "gpt2" else "norm.weight",
        "norm.bias": "ln_f.bias",
    }
    if name == "head.weight":
        return {"lm_head.weight": value}
    if name in outer:
        return {f"{base}.{outer[name]}": value}
    _, layer, rest = name.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    if config.family == "gpt2":
        return {f"{base}.h.{layer}.{_GPT2_BLOCK[part]}.{kind}": value.T if _transposed(config, name) else value}
    prefix = f"{base}.layers.{layer}"
    if part == "attention.project":
        heads = (config.heads, config.key_value_heads, config.key_value_heads)
        split = torch.split(value, [count * config.head_width for count in heads])
        return {f"{prefix}.self_attn.{n}_proj.{kind}": v for n, v in zip("qkv", split, strict=True)}
    if part == "feed_forward.expand":
        return {f"{prefix}.mlp.{n}_proj.{kind}": v for n, v in zip(("gate", "up"), value.chunk(2), strict=True)}
    return {f"{prefix}.{_LLAMA_BLOCK[part]}.{kind}": value}
