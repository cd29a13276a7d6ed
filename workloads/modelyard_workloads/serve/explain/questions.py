"""question-answering: what each token of question and text contributed to the answer's place.

The score is the logit of the answer's first token as a beginning plus that of its last token as an end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.data.questions import read, reading_windows
from modelyard_workloads.models.bert import BertConfig, BertTagger, PackedRows
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort
from modelyard_workloads.serve.explain.texts import Question, TokenAttribution
from modelyard_workloads.serve.tensors import Array
from modelyard_workloads.tasks.bert_inference import load_network, texts_of
from modelyard_workloads.tasks.bert_questions import Answer, Window, best_answer, window_of
from modelyard_workloads.tasks.bert_spans import token_logits

NO_ANSWER = "no answer"


class AnswerExplainer:
    """Explains the answer that serving would give."""

    def __init__(self, network: BertTagger, tokenizer: Tokenizer, preprocess: Mapping[str, Any]) -> None:
        self._network = network.eval().requires_grad_(False)
        self._windows = reading_windows(tokenizer, int(preprocess["length"]), int(preprocess["stride"]))
        self._longest = int(preprocess["answerLength"])
        self._may_be_none = bool(preprocess["mayBeNone"])
        self._tokens = TokenAttribution(network.encoder, tokenizer)

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """{question, context: BYTES [B]} -> attributions (tokens of the window that has the answer,)"""
        asked, context = (texts_of(arrays[name][row : row + 1])[0] for name in ("question", "context"))
        encoding, first, last, answer = self._answer(asked, context)

        def logit(rows: PackedRows, embedded: Tensor) -> Tensor:
            logits: Tensor = self._network(rows, embedded)
            return logits[rows.first + first, 0] + logits[rows.first + last, 1]

        target = context[answer.start : answer.end] or NO_ANSWER
        question = Question(encoding=encoding, target=target, logit=logit, inputs=["question", "context"])
        return self._tokens.explain(question, effort)

    @torch.no_grad()
    def _answer(self, asked: str, context: str) -> tuple[Encoding, int, int, Answer]:
        """A window, the first and the last token of the answer in it (both 0: there is none), and the answer."""
        encodings = read(self._windows, asked, context)
        logits = token_logits(self._network, encodings)
        windows = [window_of(encoding, values) for encoding, values in zip(encodings, logits, strict=True)]
        answer = best_answer(windows, self._longest, may_be_none=self._may_be_none)
        if answer.start == answer.end:
            index = min(range(len(windows)), key=lambda number: float(windows[number].logits[0].sum()))
            return encodings[index], 0, 0, answer
        spans = [_span(window, answer) for window in windows]
        index = max((i for i, span in enumerate(spans) if span), key=lambda i: _score(windows[i], spans[i]))
        first, last = spans[index] or (0, 0)
        return encodings[index], first, last, answer


def _span(window: Window, answer: Answer) -> tuple[int, int] | None:
    """Which tokens of a window are the answer."""
    first, last = np.flatnonzero(window.begins == answer.start), np.flatnonzero(window.ends == answer.end)
    return (int(first[0]), int(last[-1])) if len(first) and len(last) else None


def _score(window: Window, span: tuple[int, int] | None) -> float:
    return float(window.logits[span[0], 0] + window.logits[span[1], 1]) if span else -np.inf


def build(artifact: Artifact) -> AnswerExplainer:
    """Raises DataError."""

    def network_of(config: BertConfig, _labels: int) -> BertTagger:
        return BertTagger(config, 2)

    network, _, tokenizer = load_network(artifact.path, "BertForQuestionAnswering", network_of)
    return AnswerExplainer(network, tokenizer, artifact.manifest.preprocess)
