"""The model of `question-answering` as it is served, and how the best answer is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from modelyard_workloads.artifact import TensorSpec
from modelyard_workloads.data.questions import read, reading_windows, text_tokens
from modelyard_workloads.models.bert import BertConfig, BertTagger
from modelyard_workloads.tasks.bert_inference import Array, Arrays, TextReader, load_network, texts_of
from modelyard_workloads.tasks.bert_spans import token_logits


@dataclass(frozen=True, kw_only=True)
class Window:
    """What the network says of a window of T tokens, and which characters of the text they are (-1: none)."""

    logits: NDArray[np.float32]  # (T, 2): the answer begins here, ends here
    begins: NDArray[np.int64]  # (T,)
    ends: NDArray[np.int64]  # (T,)


@dataclass(frozen=True)
class Answer:
    """Characters of the text, and the probability; nothing (0 to 0) where there is no answer."""

    start: int
    end: int
    score: float


def best_answer(windows: Sequence[Window], longest: int, *, may_be_none: bool) -> Answer:
    """The most probable span of at most `longest` tokens over all windows. The probability is that of its beginning
    times that of its end, each among all tokens of all windows.
    """
    everything = torch.cat([torch.from_numpy(np.ascontiguousarray(window.logits)) for window in windows]).double()
    total = float(torch.logsumexp(everything, dim=0).sum())
    best, found = -np.inf, (0, 0)
    for window in windows:
        scores = np.where(window.begins[:, None] >= 0, window.logits.astype(np.float64), -np.inf)
        ordered = np.tri(len(scores), k=longest - 1, dtype=bool) & ~np.tri(len(scores), k=-1, dtype=bool)
        spans = np.where(ordered, scores[:, 0, None] + scores[None, :, 1], -np.inf)
        first, last = np.unravel_index(int(spans.argmax()), spans.shape)
        if spans[first, last] > best:
            best, found = float(spans[first, last]), (int(window.begins[first]), int(window.ends[last]))
    none = min(float(window.logits[0].astype(np.float64).sum()) for window in windows)
    if not np.isfinite(best) or (may_be_none and none > best):
        return Answer(0, 0, float(np.exp(none - total)))
    return Answer(*found, float(np.exp(best - total)))


class Answerer:
    """Answers each question with a piece of its text."""

    inputs: Sequence[TensorSpec] = (
        TensorSpec(name="question", datatype="BYTES", shape=[-1]),
        TensorSpec(name="context", datatype="BYTES", shape=[-1]),
    )
    outputs: Sequence[TensorSpec] = (
        TensorSpec(name="answer", datatype="BYTES", shape=[-1]),
        TensorSpec(name="score", datatype="FP32", shape=[-1]),
        TensorSpec(name="start", datatype="INT32", shape=[-1]),
        TensorSpec(name="end", datatype="INT32", shape=[-1]),
    )
    optional: frozenset[str] = frozenset()
    golden = frozenset({"score"})
    labels: Sequence[str] = ()

    def __init__(self, network: BertTagger, tokenizer: Tokenizer, preprocess: Mapping[str, Any]) -> None:
        self._network = network
        self.reader = TextReader(tokenizer, int(preprocess["length"]))
        self._windows = reading_windows(tokenizer, int(preprocess["length"]), int(preprocess["stride"]))
        self._longest = int(preprocess["answerLength"])
        self._may_be_none = bool(preprocess["mayBeNone"])

    def check(self, arrays: Arrays) -> None:
        """Raises RefusedText."""
        for name in ("question", "context"):
            self.reader.check_all(name, arrays[name])

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> dict[str, Array]:
        """`start` and `end` are characters of the text; all is 0 and empty where a model that learned to says that
        there is no answer.
        """
        contexts = texts_of(arrays["context"])
        windows = [
            read(self._windows, question, context)
            for question, context in zip(texts_of(arrays["question"]), contexts, strict=True)
        ]
        logits = iter(token_logits(self._network, [window for group in windows for window in group]))
        answers = [
            best_answer([window_of(w, next(logits)) for w in group], self._longest, may_be_none=self._may_be_none)
            for group in windows
        ]
        texts = [text[answer.start : answer.end].encode() for text, answer in zip(contexts, answers, strict=True)]
        return {
            "answer": np.array(texts, dtype=object),
            "score": np.array([answer.score for answer in answers], dtype=np.float32),
            "start": np.array([answer.start for answer in answers], dtype=np.int32),
            "end": np.array([answer.end for answer in answers], dtype=np.int32),
        }


def window_of(encoding: Encoding, logits: NDArray[np.float32]) -> Window:
    """A window of `read`, with what the network says of its (T, 2)."""
    begins, ends = np.full((2, len(encoding.ids)), -1)
    for place in text_tokens(encoding):
        begins[place], ends[place] = encoding.offsets[place]
    return Window(logits=logits, begins=begins, ends=ends)


def load_answerer(directory: Path, preprocess: Mapping[str, Any]) -> Answerer:
    """The model of `question-answering`. Raises DataError, KeyError for an incomplete `preprocess`."""

    def build(config: BertConfig, _labels: int) -> BertTagger:
        return BertTagger(config, 2)

    network, _, tokenizer = load_network(directory, "BertForQuestionAnswering", build)
    return Answerer(network, tokenizer, preprocess)
