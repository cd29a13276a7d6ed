"""Our BERT beside transformers: the same weights, logits and gradients; what cannot be computed is refused."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from modelyard_workloads.exits import DataError
from modelyard_workloads.models.bert import (
    BertClassifier,
    BertConfig,
    BertPretraining,
    BertTagger,
    PackedRows,
    pack_rows,
)
from modelyard_workloads.models.bert_huggingface import (
    Head,
    huggingface_config,
    load_initial,
    read_checkpoint,
    to_huggingface,
)
from torch import Tensor, nn

transformers: Any = import_module("transformers")  # its types promise more than its code keeps

CONFIG = BertConfig(vocabulary=97, context=24, layers=2, width=32, heads=4, inner=64, dropout=0.0)
HEADS: list[Head] = [
    "BertForPreTraining",
    "BertForMaskedLM",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
]
TARGETS = torch.tensor([1, 4, 9, 20, 25])  # places in the packed rows


def built(head: Head, config: BertConfig = CONFIG) -> nn.Module:
    """A model in which no weight is what another one is by accident."""
    torch.manual_seed(1)
    model: nn.Module
    if head in ("BertForPreTraining", "BertForMaskedLM"):
        model = BertPretraining(config, next_sentence=head == "BertForPreTraining")
    elif head == "BertForSequenceClassification":
        model = BertClassifier(config, 3)
    else:
        model = BertTagger(config, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def saved(model: nn.Module, head: Head, directory: Path) -> Path:
    """The model as a directory that transformers loads."""
    labels = ["a", "b", "c"] if head == "BertForSequenceClassification" else ["a", "b"]
    (directory / "config.json").write_text(json.dumps(huggingface_config(CONFIG, head, labels)))
    weights = to_huggingface(model.state_dict(), head)
    safetensors.torch.save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def theirs_of(head: Head, directory: Path) -> Any:
    model, info = getattr(transformers, head).from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def rows(*lengths: int) -> tuple[PackedRows, dict[str, Tensor]]:
    """The same random rows packed for us and padded for transformers."""
    generator = np.random.default_rng(3)
    tokens = [generator.integers(1, 97, length) for length in lengths]
    types = [(np.arange(length) > length // 2).astype(np.int64) for length in lengths]
    padded = np.zeros((3, len(lengths), max(lengths)), dtype=np.int64)
    for index, length in enumerate(lengths):
        padded[:, index, :length] = np.stack([tokens[index], types[index], np.ones(length, dtype=np.int64)])
    names = ("input_ids", "token_type_ids", "attention_mask")
    return pack_rows(tokens, types), dict(zip(names, torch.from_numpy(padded), strict=True))


def ours_and_theirs(head: Head, model: nn.Module, other: Any, lengths: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    packed, padded = rows(*lengths)
    tokens = padded["attention_mask"].bool()
    answer = other(**padded)
    if head in ("BertForPreTraining", "BertForMaskedLM"):
        ours = model(packed, TARGETS)
        if head == "BertForMaskedLM":
            return [(ours.masked, answer.logits[tokens][TARGETS])]
        masked = (ours.masked, answer.prediction_logits[tokens][TARGETS])
        return [masked, (ours.next_sentence, answer.seq_relationship_logits)]
    ours = model(packed)
    if head == "BertForQuestionAnswering":
        return [(ours[:, 0], answer.start_logits[tokens]), (ours[:, 1], answer.end_logits[tokens])]
    return [(ours, answer.logits if head == "BertForSequenceClassification" else answer.logits[tokens])]


@pytest.mark.parametrize("lengths", [(12, 5, 17), (9, 9, 9)], ids=["uneven", "even"])
@pytest.mark.parametrize("head", HEADS)
def test_transformers_loads_our_weights_and_has_equal_logits_and_gradients(
    tmp_path: Path, head: Head, lengths: tuple[int, ...]
) -> None:
    model = built(head)
    other = theirs_of(head, saved(model, head, tmp_path))
    pairs = ours_and_theirs(head, model, other, lengths)
    for mine, its in pairs:
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)
    sum(mine.square().mean() for mine, _ in pairs).backward()  # type: ignore[union-attr]
    sum(its.square().mean() for _, its in pairs).backward()  # type: ignore[union-attr]
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert len(gradients) == len(list(model.parameters()))
    others = {n: p.grad for n, p in other.named_parameters() if p.grad is not None}
    for name, value in to_huggingface(gradients, head).items():
        torch.testing.assert_close(value, others[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_we_load_what_transformers_saved(tmp_path: Path, head: Head) -> None:
    theirs = theirs_of(head, saved(built(head), head, tmp_path))
    theirs.save_pretrained(tmp_path / "theirs")
    checkpoint = read_checkpoint(tmp_path / "theirs")
    torch.manual_seed(9)
    fresh = type(built(head))
    model = fresh(checkpoint.config, **_arguments(head)).eval()
    assert load_initial(model, checkpoint, head) == []
    for mine, its in ours_and_theirs(head, model, theirs, (12, 5, 17)):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-5)


def _arguments(head: Head) -> dict[str, Any]:
    if head in ("BertForPreTraining", "BertForMaskedLM"):
        return {"next_sentence": head == "BertForPreTraining"}
    return {"classes": 3 if head == "BertForSequenceClassification" else 2}


def test_a_head_of_other_classes_stays_and_the_encoder_comes_from_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(saved(built("BertForPreTraining"), "BertForPreTraining", tmp_path))
    model = BertClassifier(checkpoint.config, 5)
    before = model.classifier.weight.clone()
    stayed = load_initial(model, checkpoint, "BertForSequenceClassification")
    assert stayed == ["classifier.weight", "classifier.bias"]
    assert torch.equal(model.classifier.weight, before)
    assert torch.equal(model.encoder.tokens.weight, checkpoint.tensors["bert.embeddings.word_embeddings.weight"])


def test_the_names_of_older_checkpoints_and_of_the_bare_encoder_are_known(tmp_path: Path) -> None:
    directory = saved(built("BertForSequenceClassification"), "BertForSequenceClassification", tmp_path)
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    older = {
        name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma"): value
        for name, value in tensors.items()
        if name.startswith("bert.")
    }
    safetensors.torch.save_file(older, directory / "model.safetensors")
    model = BertClassifier(CONFIG, 3)
    stayed = load_initial(model, read_checkpoint(directory), "BertForSequenceClassification")
    assert stayed == ["classifier.weight", "classifier.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta', expected 'bert'"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu', expected 'gelu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ({"hidden_size": None}, "is missing or wrong"),
        ({"vocab_size": 98}, r"word_embeddings.weight has shape \[97, 32\], expected \[98, 32\]"),
        ({"num_hidden_layers": 3}, r"bert.encoder.layer.2.attention.self.query.weight is missing"),
    ],
)
def test_a_checkpoint_that_is_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    directory = saved(built("BertForMaskedLM"), "BertForMaskedLM", tmp_path)
    raw = json.loads((directory / "config.json").read_text()) | change
    (directory / "config.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=message):
        checkpoint = read_checkpoint(directory)
        load_initial(BertPretraining(checkpoint.config, next_sentence=False), checkpoint, "BertForMaskedLM")


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No such file or directory: .*config\.json; expected config\.json and model"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(huggingface_config(CONFIG, "BertForMaskedLM")))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(DataError, match="SafetensorError"):
        read_checkpoint(tmp_path)


def test_a_row_is_answered_alike_alone_and_among_others() -> None:
    model = built("BertForSequenceClassification")
    generator = np.random.default_rng(5)
    tokens = [generator.integers(1, 97, length) for length in (3, 20, 11, 1)]
    types = [np.zeros_like(row) for row in tokens]
    together = model(pack_rows(tokens, types))
    for index, row in enumerate(tokens):
        torch.testing.assert_close(model(pack_rows([row], [types[index]]))[0], together[index], rtol=1e-5, atol=1e-5)
