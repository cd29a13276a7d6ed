"""bert-pretraining: what each token contributed to the word at the first [MASK]; without one, to whether the next text
follows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.data.wordpiece import MASK, UNKNOWN, special_id
from modelyard_workloads.models.bert import BertConfig, BertPretraining, PackedRows
from modelyard_workloads.models.bert_huggingface import Head
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort
from modelyard_workloads.serve.explain.texts import Question, TokenAttribution
from modelyard_workloads.serve.tensors import Array
from modelyard_workloads.tasks.bert_inference import TextReader, load_network, pack_encodings, texts_of

FOLLOWS = ("next_text follows", "next_text does not follow")


class PretrainedExplainer:
    """Explains the first mask of a text, or a pair of texts without masks."""

    def __init__(self, network: BertPretraining, tokenizer: Tokenizer) -> None:
        self._network = network.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._mask = special_id(tokenizer, MASK)
        self._reader = TextReader(tokenizer, network.encoder.positions.num_embeddings)
        self._tokens = TokenAttribution(network.encoder, tokenizer)

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """{text, next_text: BYTES [B]} -> attributions (tokens,)"""
        names = ["text", "next_text"]
        encoding = self._reader.encode(*(texts_of(arrays[name][row : row + 1]) for name in names))[0]
        if self._mask in encoding.ids:
            question = self._word(encoding, names)
        elif 1 in encoding.type_ids and self._network.next_sentence is not None:
            question = self._next(encoding, names)
        else:
            raise InvalidInput(f"input 'text': there is nothing to explain; write {MASK} for a word, or send next_text")
        return self._tokens.explain(question, effort)

    def _word(self, encoding: Encoding, names: list[str]) -> Question:
        place = encoding.ids.index(self._mask)
        with torch.no_grad():
            best = int(self._network(pack_encodings([encoding]), torch.tensor([place])).masked.argmax())

        def logit(rows: PackedRows, embedded: Tensor) -> Tensor:
            logits: Tensor = self._network(rows, rows.first + place, embedded).masked
            return logits[:, best]

        target = self._tokenizer.id_to_token(best) or UNKNOWN
        return Question(encoding=encoding, target=target, logit=logit, inputs=names)

    def _next(self, encoding: Encoding, names: list[str]) -> Question:
        def logits(rows: PackedRows, embedded: Tensor | None = None) -> Tensor:
            found: Tensor | None = self._network(rows, rows.first[:0], embedded).next_sentence
            assert found is not None
            return found

        with torch.no_grad():
            best = int(logits(pack_encodings([encoding])).argmax())
        return Question(
            encoding=encoding,
            target=FOLLOWS[best],
            logit=lambda rows, embedded: logits(rows, embedded)[:, best],
            inputs=names,
        )


def build(artifact: Artifact) -> PretrainedExplainer:
    """Raises DataError."""
    name = artifact.manifest.architecture.name

    def network_of(config: BertConfig, _labels: int) -> BertPretraining:
        return BertPretraining(config, next_sentence=name == "BertForPreTraining")

    head: Head = "BertForPreTraining" if name == "BertForPreTraining" else "BertForMaskedLM"
    network, _, tokenizer = load_network(artifact.path, head, network_of)
    return PretrainedExplainer(network, tokenizer)
