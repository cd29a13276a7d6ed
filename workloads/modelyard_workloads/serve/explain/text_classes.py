"""text-classification: what each token contributed to the logit of the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from tokenizers import Tokenizer
from torch import Tensor

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.models.bert import BertClassifier, PackedRows
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort
from modelyard_workloads.serve.explain.texts import Question, TokenAttribution
from modelyard_workloads.serve.tensors import Array
from modelyard_workloads.tasks.bert_inference import TextReader, load_network, pack_encodings, texts_of


class TextClassExplainer:
    """Explains a classifier of texts, or of pairs of them; as in serving, what is behind `length` tokens is cut off."""

    def __init__(
        self, network: BertClassifier, tokenizer: Tokenizer, labels: Sequence[str], length: int, *, pairs: bool
    ) -> None:
        self._network = network.eval().requires_grad_(False)
        self._labels = labels
        self._reader = TextReader(tokenizer, length)
        self._inputs = ["text", "second_text"] if pairs else ["text"]
        self._tokens = TokenAttribution(network.encoder, tokenizer)

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """{text, second_text: BYTES [B]} -> attributions (tokens,)"""
        encoding = self._reader.encode(*(texts_of(arrays[name][row : row + 1]) for name in self._inputs))[0]
        with torch.no_grad():
            best = int(self._network(pack_encodings([encoding])).argmax())

        def logit(rows: PackedRows, embedded: Tensor) -> Tensor:
            logits: Tensor = self._network(rows, embedded)
            return logits[:, best]

        question = Question(encoding=encoding, target=self._labels[best], logit=logit, inputs=self._inputs)
        return self._tokens.explain(question, effort)


def build(artifact: Artifact) -> TextClassExplainer:
    """Raises DataError."""
    network, checkpoint, tokenizer = load_network(artifact.path, "BertForSequenceClassification", BertClassifier)
    length, pairs = int(artifact.manifest.preprocess["length"]), bool(artifact.manifest.preprocess["pairs"])
    return TextClassExplainer(network, tokenizer, checkpoint.labels, length, pairs=pairs)
