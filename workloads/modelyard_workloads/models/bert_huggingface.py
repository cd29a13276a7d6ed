"""BERT in Hugging Face's layout and back: the names and shapes of BertForPreTraining and its sisters.

What differs from ours: query, key and value are apart there. A checkpoint that asks for something this encoder does
not compute is refused, field by field, rather than loaded and wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from modelyard_workloads.exits import DataError
from modelyard_workloads.models.bert import BertConfig

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

Head = Literal[
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
]
_EMBEDDINGS = {"tokens": "word_embeddings", "positions": "position_embeddings", "types": "token_type_embeddings"}
_BLOCK = {
    "attention.merge": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "norm": "output.LayerNorm",
}
_HEADS = {
    "pooler.dense": "bert.pooler.dense",
    "masked.dense": "cls.predictions.transform.dense",
    "masked.norm": "cls.predictions.transform.LayerNorm",
    "masked": "cls.predictions",
    "next_sentence": "cls.seq_relationship",
}


def huggingface_config(config: BertConfig, head: Head, labels: Sequence[str] = ()) -> dict[str, Any]:
    """`config.json` for transformers; `labels` are the classes' names in their order."""
    named = {str(number): label for number, label in enumerate(labels)}
    classes = {"id2label": named, "label2id": {label: int(number) for number, label in named.items()}}
    return {
        "architectures": [head],
        "model_type": "bert",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "max_position_embeddings": config.context,
        "type_vocab_size": config.types,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "layer_norm_eps": config.norm_epsilon,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **(classes if labels else {}),
    }


def bert_config(raw: Mapping[str, Any]) -> BertConfig:
    """Our configuration from a `config.json`. Raises DataError that names every field that cannot be computed here."""
    problems = list(_unsupported(raw))
    if problems:
        raise DataError(f"{CONFIG}: " + "; ".join(problems))
    try:
        return BertConfig(
            vocabulary=int(raw["vocab_size"]),
            context=int(raw["max_position_embeddings"]),
            layers=int(raw["num_hidden_layers"]),
            width=int(raw["hidden_size"]),
            heads=int(raw["num_attention_heads"]),
            inner=int(raw["intermediate_size"]),
            types=int(raw.get("type_vocab_size", 2)),
            dropout=float(raw.get("hidden_dropout_prob", 0.1)),
            attention_dropout=float(raw.get("attention_probs_dropout_prob", 0.0)),
            norm_epsilon=float(raw.get("layer_norm_eps", 1e-12)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{CONFIG}: {error} is missing or wrong for model_type bert") from None


def _unsupported(raw: Mapping[str, Any]) -> Iterator[str]:
    expected = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    for name, wanted in expected.items():
        found = raw.get(name, None if name == "model_type" else wanted)
        if found != wanted:
            yield f"{name} is {found!r}, expected {wanted!r}"


def to_huggingface(weights: Mapping[str, Tensor], head: Head) -> dict[str, Tensor]:
    """Our state dict under their names, float32, on the CPU."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        theirs = _theirs(name, head)
        parts = value.chunk(len(theirs))
        for their, part in zip(theirs, parts, strict=True):
            found[their] = part.detach().to("cpu", torch.float32).contiguous()
    return found


def _theirs(name: str, head: Head) -> list[str]:
    """Their names of one of our tensors: three for the fused projection, in the order in which it is cut."""
    part, _, kind = name.rpartition(".")
    if part.startswith("encoder.blocks."):
        _, _, layer, below = part.split(".", 3)
        prefix = f"bert.encoder.layer.{layer}"
        if below == "attention.project":
            return [f"{prefix}.attention.self.{n}.{kind}" for n in ("query", "key", "value")]
        return [f"{prefix}.{_BLOCK[below]}.{kind}"]
    if part.startswith("encoder."):
        below = part.removeprefix("encoder.")
        return [f"bert.embeddings.{_EMBEDDINGS.get(below, 'LayerNorm')}.{kind}"]
    if part == "classifier":
        return [f"{'qa_outputs' if head == 'BertForQuestionAnswering' else 'classifier'}.{kind}"]
    return [f"{_HEADS[part]}.{kind}"]


@dataclass(frozen=True)
class BertCheckpoint:
    """A checkpoint in Hugging Face's layout: configuration and tensors, under their present names."""

    path: Path
    config: BertConfig
    tensors: dict[str, Tensor]
    labels: list[str]

    def take(self, names: Sequence[str], head: Head) -> dict[str, Tensor]:
        """Those of our tensors that the checkpoint has, float32."""
        ours: dict[str, Tensor] = {}
        for name in names:
            theirs = _theirs(name, head)
            if all(their in self.tensors for their in theirs):
                ours[name] = torch.cat([self.tensors[their].float() for their in theirs])
        return ours


def read_checkpoint(path: Path) -> BertCheckpoint:
    """Read a directory with config.json and model.safetensors (or its shards). Raises DataError."""
    try:
        raw = json.loads((path / CONFIG).read_bytes())
        config = bert_config(raw)
        names = [WEIGHTS]
        if (path / INDEX).exists():
            names = sorted(set(json.loads((path / INDEX).read_bytes())["weight_map"].values()))
        tensors: dict[str, Tensor] = {}
        for name in names:
            tensors.update(safetensors.torch.load_file(path / Path(name).name))
        named = {int(number): str(label) for number, label in (raw.get("id2label") or {}).items()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: {error.filename}; expected {CONFIG} and {WEIGHTS}") from None
    except (ValueError, KeyError, AttributeError, SafetensorError) as error:
        raise DataError(f"{path}: {type(error).__name__}: {error}") from None
    present = {_present_name(name): value for name, value in tensors.items()}
    return BertCheckpoint(path, config, present, [named[number] for number in sorted(named)])


def _present_name(name: str) -> str:
    """Checkpoints converted from TensorFlow say gamma and beta; those of the bare encoder have no prefix."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    return f"bert.{name}" if name.startswith(("embeddings.", "encoder.", "pooler.")) else name


def load_initial(model: nn.Module, checkpoint: BertCheckpoint, head: Head) -> list[str]:
    """Start from a checkpoint: the encoder must be in it, a head of other classes stays as it is. Returns the names
    that stay. Raises DataError that names what is missing or has another shape.
    """
    state = model.state_dict()
    found = checkpoint.take(list(state), head)
    wrong = [
        f"{_theirs(name, head)[0]} has shape {list(found[name].shape)}, expected {list(value.shape)}"
        if name in found
        else f"{_theirs(name, head)[0]} is missing"
        for name, value in state.items()
        if name.startswith("encoder.") and (name not in found or found[name].shape != value.shape)
    ]
    if wrong:
        raise DataError(f"{checkpoint.path}: {'; '.join(wrong[:3])}")
    fitting = {name: value for name, value in found.items() if value.shape == state[name].shape}
    model.load_state_dict(fitting, strict=False)
    return [name for name in state if name not in fitting]
