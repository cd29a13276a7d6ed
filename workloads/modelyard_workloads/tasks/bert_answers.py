"""Fine-tuned models as they are served: classes of texts. See bert_inference.py for the common ground."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from modelyard_workloads.artifact import TensorSpec
from modelyard_workloads.models.bert import BertClassifier
from modelyard_workloads.tasks.bert_inference import (
    Array,
    Arrays,
    TextReader,
    as_bytes,
    by_length,
    load_network,
    pack_encodings,
    texts_of,
)


class TextClassifier:
    """The class of each text, or pair of texts. Texts longer than `length` tokens are cut there, as in training."""

    optional: frozenset[str] = frozenset()
    golden = frozenset({"logits", "probabilities"})

    def __init__(
        self, network: BertClassifier, tokenizer: Tokenizer, labels: Sequence[str], length: int, *, pairs: bool
    ) -> None:
        self._network = network
        self.reader = TextReader(tokenizer, length)
        self.labels = labels
        self._names = as_bytes(labels)
        names = ["text", "second_text"] if pairs else ["text"]
        self.inputs: Sequence[TensorSpec] = [TensorSpec(name=n, datatype="BYTES", shape=[-1]) for n in names]
        classes = len(labels)
        self.outputs: Sequence[TensorSpec] = [
            TensorSpec(name="label", datatype="BYTES", shape=[-1]),
            TensorSpec(name="score", datatype="FP32", shape=[-1]),
            TensorSpec(name="probabilities", datatype="FP32", shape=[-1, classes]),
            TensorSpec(name="logits", datatype="FP32", shape=[-1, classes]),
        ]

    def check(self, arrays: Arrays) -> None:
        """Raises RefusedText."""
        for spec in self.inputs:
            self.reader.check_all(spec.name, arrays[spec.name])

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> dict[str, Array]:
        """`label` is the most probable class, `score` its probability."""
        texts = [texts_of(arrays[spec.name]) for spec in self.inputs]
        encodings = self.reader.encode(*texts)
        logits = np.empty((len(encodings), len(self.labels)), dtype=np.float32)
        for group in by_length(encodings):
            logits[group] = self._network(pack_encodings([encodings[i] for i in group])).float().numpy()
        probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
        best = probabilities.argmax(axis=1)
        return {
            "label": self._names[best],
            "score": probabilities[np.arange(len(best)), best],
            "probabilities": probabilities,
            "logits": logits,
        }


def load_classifier(directory: Path, length: int, *, pairs: bool) -> TextClassifier:
    """The model of `text-classification`. Raises DataError."""
    network, checkpoint, tokenizer = load_network(directory, "BertForSequenceClassification", BertClassifier)
    return TextClassifier(network, tokenizer, checkpoint.labels, length, pairs=pairs)
