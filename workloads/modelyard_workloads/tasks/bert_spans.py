"""Fine-tuned models that answer with a piece of a text: entities, and answers to questions.

A text may be longer than the network reads at once: it is read in windows that overlap, and each token counts where it
has most text around it. Places are counted in characters (Unicode code points) from 0, ends are exclusive.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from modelyard_workloads.artifact import TensorSpec
from modelyard_workloads.data.entities import entities
from modelyard_workloads.models.bert import BertTagger
from modelyard_workloads.tasks.bert_inference import (
    Array,
    Arrays,
    TextReader,
    by_length,
    load_network,
    pack_encodings,
    texts_of,
)


def windows_of(encoding: Encoding) -> list[Encoding]:
    """All windows of a text that was encoded with truncation and stride."""
    return [encoding, *encoding.overflowing]


def windowed(tokenizer: Tokenizer, length: int, *, pairs: bool) -> Tokenizer:
    """A copy that reads long texts in windows of `length` tokens, a quarter of which overlap. Of pairs the second text
    is divided.
    """
    copy = Tokenizer.from_str(tokenizer.to_str())
    strategy = "only_second" if pairs else "longest_first"
    copy.enable_truncation(length, stride=(length - 3) // 4, strategy=strategy)
    return copy


def token_logits(network: BertTagger, encodings: Sequence[Encoding]) -> list[NDArray[np.float32]]:
    """(tokens, K) of each encoding."""
    found: list[NDArray[np.float32]] = [np.empty((0, 0), np.float32)] * len(encodings)
    for group in by_length(encodings):
        rows = pack_encodings([encodings[i] for i in group])
        for index, logits in zip(group, torch.split(network(rows).float(), list(rows.lengths)), strict=True):
            found[index] = logits.numpy()
    return found


@dataclass
class Place:
    """A token of a text: where it is, and what the network says of it."""

    start: int
    end: int
    window: int
    index: int  # in its window
    continues: bool
    margin: int  # tokens to the nearer end of the window
    logits: NDArray[np.float32]


class Tagger:
    """The entities of each text."""

    inputs: Sequence[TensorSpec] = (TensorSpec(name="text", datatype="BYTES", shape=[-1]),)
    outputs: Sequence[TensorSpec] = (
        TensorSpec(name="entities", datatype="BYTES", shape=[-1]),
        TensorSpec(name="count", datatype="INT32", shape=[-1]),
        TensorSpec(name="confidence", datatype="FP32", shape=[-1]),
    )
    optional: frozenset[str] = frozenset()
    golden = frozenset({"confidence"})

    def __init__(self, network: BertTagger, tokenizer: Tokenizer, labels: Sequence[str], length: int) -> None:
        self._network = network
        self.reader = TextReader(tokenizer, length)
        self._windowed = windowed(tokenizer, length, pairs=False)
        self.labels = labels

    def check(self, arrays: Arrays) -> None:
        """Raises RefusedText."""
        self.reader.check_all("text", arrays["text"])

    @torch.inference_mode()
    def __call__(self, arrays: Arrays) -> dict[str, Array]:
        """`entities` is a JSON list of {"entity", "text", "start", "end", "score"}; `confidence` the mean probability
        of the tags that were chosen.
        """
        texts = texts_of(arrays["text"])
        windows = [windows_of(encoding) for encoding in self._windowed.encode_batch(texts)]
        logits = iter(token_logits(self._network, [window for group in windows for window in group]))
        found, counts, confidences = [], [], []
        for text, group in zip(texts, windows, strict=True):
            places = [p for p in merged([(w, next(logits)) for w in group]) if not p.continues]
            answer, confidence = self._entities(text, places)
            found.append(json.dumps(answer, ensure_ascii=False).encode())
            counts.append(len(answer))
            confidences.append(confidence)
        return {
            "entities": np.array(found, dtype=object),
            "count": np.array(counts, dtype=np.int32),
            "confidence": np.array(confidences, dtype=np.float32),
        }

    def _entities(self, text: str, places: Sequence[Place]) -> tuple[list[dict[str, Any]], float]:
        if not places:
            return [], 1.0
        chances = torch.from_numpy(np.stack([place.logits for place in places])).softmax(dim=1)
        scores, best = chances.max(dim=1)
        ends = [place.end for place in places]
        answer = []
        for kind, first, last in entities([self.labels[i] for i in best.tolist()]):
            start, end = places[first].start, ends[last]
            score = float(f"{float(scores[first : last + 1].mean()):.6g}")
            answer.append({"entity": kind, "text": text[start:end], "start": start, "end": end, "score": score})
        return answer, float(scores.mean())


def merged(windows: Sequence[tuple[Encoding, NDArray[np.float32]]]) -> Iterator[Place]:
    """The tokens of a text once each, in their order; a token that begins a word ends where its last part does."""
    best: dict[int, Place] = {}
    for window, (encoding, logits) in enumerate(windows):
        size = len(encoding.ids)
        for index, (start, end) in enumerate(encoding.offsets):
            if encoding.special_tokens_mask[index]:
                continue
            margin = min(index, size - 1 - index)
            if start not in best or margin > best[start].margin:
                continues = encoding.tokens[index].startswith("##")
                best[start] = Place(start, end, window, index, continues, margin, logits[index])
    places = [best[start] for start in sorted(best)]
    for one, two in pairwise(reversed(places)):
        if one.continues:
            two.end = one.end
    yield from places


def load_tagger(directory: Path, length: int) -> Tagger:
    """The model of `token-classification`. Raises DataError."""
    network, checkpoint, tokenizer = load_network(directory, "BertForTokenClassification", BertTagger)
    return Tagger(network, tokenizer, checkpoint.labels, length)
