"""What BERT is pretrained with: rows of two texts that follow each other or do not, some of their tokens hidden.

A document is cut into windows of as many tokens as fit in a row. For next-sentence prediction a window is parted where
a sentence begins; in half of the rows the second part is replaced by as many tokens of another document, from the
beginning of a sentence on.
Of the tokens, `maskProbability` are to be guessed: 80 % of these are hidden behind [MASK], 10 % are exchanged for any
token, 10 % stay. All of it is drawn anew in every epoch, from the draw of the global batch: so every rank knows what
all ranks together have to guess, without a word between them.

Shapes: B rows of the global batch, b of this rank, L tokens of the longest possible row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from modelyard_workloads.data.order import DataOrder, Shard
from modelyard_workloads.data.token_file import TokenFile
from modelyard_workloads.data.transfer import to_device
from modelyard_workloads.data.wordpiece import FIRST, MASK, SEPARATOR, special_id
from modelyard_workloads.exits import DataError
from modelyard_workloads.models.bert import PackedRows, pack_rows
from modelyard_workloads.parameters.text import BertPretrainingParameters

_SHORTEST = 8  # tokens of a window; what is left at the end of a document and shorter is not used
_TRIES = 8  # draws for a text from elsewhere that is long enough
Integers = NDArray[np.int64]
# Kinds of tokens in a row: text may be guessed, special ones may not; which of the two texts each belongs to.
_TEXT, _SECOND_TEXT, _SPECIAL, _SECOND_SPECIAL = range(4)
_LAYOUT = np.array([_SPECIAL, _TEXT, _SPECIAL, _SECOND_TEXT, _SECOND_SPECIAL])
_TYPES = np.array([0, 1, 0, 1])


@dataclass(frozen=True, kw_only=True)
class PretrainingBatch:
    """Rows to guess in."""

    rows: PackedRows
    masked: Tensor  # (M,) int64: places in the packed rows, row after row
    targets: Tensor  # (M,) int64: what stood there
    counts: tuple[int, ...]  # targets of each row
    strangers: Tensor  # (b,) int64: 0: the second text follows the first, 1: it is from elsewhere
    all_targets: int  # of the global batch
    all_rows: int

    def parts(self, count: int) -> Sequence[PretrainingBatch]:
        """The batch in `count` parts; see backward.Divisible."""
        total = len(self.counts)
        bounds = [(n * total // count, (n + 1) * total // count) for n in range(count)]
        return [self._part(first, last) for first, last in bounds]

    def _part(self, first: int, last: int) -> PretrainingBatch:
        start, end = sum(self.counts[:first]), sum(self.counts[:last])
        return PretrainingBatch(
            rows=self.rows.part(first, last),
            masked=self.masked[start:end] - sum(self.rows.lengths[:first]),
            targets=self.targets[start:end],
            counts=self.counts[first:last],
            strangers=self.strangers[first:last],
            all_targets=self.all_targets,
            all_rows=self.all_rows,
        )


@dataclass(frozen=True)
class _Spans:
    """The two texts of each row of a global batch, as places in the token file; (B,) each."""

    first: Integers
    first_end: Integers
    second: Integers
    second_end: Integers
    strangers: Integers

    @property
    def lengths(self) -> Integers:
        return (self.first_end - self.first) + (self.second_end - self.second)


class PretrainingRows:
    """Makes rows of the windows of a token file."""

    def __init__(self, file: TokenFile, tokenizer: Tokenizer, parameters: BertPretrainingParameters) -> None:
        """Raises DataError when there is too little text."""
        self._file = file
        self._pairs = parameters.next_sentence
        self._share = parameters.mask_probability
        self._length = parameters.sequence_length
        self._first, self._separator, self._mask = (special_id(tokenizer, t) for t in (FIRST, SEPARATOR, MASK))
        self._vocabulary = tokenizer.get_vocab_size()
        self._specials = 3 if self._pairs else 2
        self._start, self._end, self._document = _windows(file.documents, self._length - self._specials)
        if self._pairs and len(np.unique(self._document)) < 2:
            raise DataError(
                "dataset.uri: nextSentence needs at least 2 documents of some length; give more, or turn it off"
            )

    def __len__(self) -> int:
        return len(self._start)

    @property
    def mean_length(self) -> float:
        """Tokens of a row, without padding."""
        return float(np.mean(self._end - self._start)) + self._specials

    def batch(
        self, windows: Tensor, generator: torch.Generator, shard: Shard, device: torch.device
    ) -> PretrainingBatch:
        """This rank's part of the rows that are made of these windows, (B,)."""
        spans = self._spans(windows.numpy(), generator)
        counts = np.maximum(1, np.round(spans.lengths * self._share)).astype(np.int64)
        # (2, B, L): which tokens, and what happens to them; (B, L): what they are exchanged for
        draws = shard.take(torch.rand(len(windows), 2, self._length, generator=generator)).numpy()
        others = shard.take(torch.randint(self._vocabulary, (len(windows), self._length), generator=generator)).numpy()
        mine = shard.take(torch.arange(len(windows))).tolist()
        rows, types, places, targets = [], [], [], []
        begin = 0
        for number, index in enumerate(mine):
            row, kind = self._row(spans, index)
            chosen = _choose(kind, draws[number, 0], int(counts[index]))
            targets.append(row[chosen])
            row[chosen] = self._hidden(row[chosen], draws[number, 1, chosen], others[number, chosen])
            rows.append(row)
            types.append(_TYPES[kind])
            places.append(chosen + begin)
            begin += len(row)
        return PretrainingBatch(
            rows=pack_rows(rows, types, device),
            masked=to_device(torch.from_numpy(np.concatenate([*places, np.empty(0, np.int64)])), device),
            targets=to_device(torch.from_numpy(np.concatenate([*targets, np.empty(0, np.int64)])), device),
            counts=tuple(int(counts[index]) for index in mine),
            strangers=to_device(torch.from_numpy(spans.strangers[mine]), device),
            all_targets=int(counts.sum()),
            all_rows=len(windows),
        )

    def examples(self, tokenizer: Tokenizer, count: int) -> dict[str, list[str]]:
        """A few short texts with a mask in each, and what follows them."""
        texts: dict[str, list[str]] = {"text": [], "next_text": []}
        for start, end in zip(self._start[:count].tolist(), self._end[:count].tolist(), strict=True):
            ids = self._file.tokens[start : min(end, start + 24)].tolist()
            half = len(ids) // 2
            begin, after = tokenizer.decode(ids[: half - 1]), tokenizer.decode(ids[half : half + 2])
            texts["text"].append(f"{begin} {MASK} {after}")
            texts["next_text"].append(tokenizer.decode(ids[half + 2 :]))
        return texts

    def _spans(self, windows: Integers, generator: torch.Generator) -> _Spans:
        start, end = self._start[windows], self._end[windows]
        if not self._pairs:
            return _Spans(start, end, end, end, np.zeros(len(windows), np.int64))
        where, coin = torch.rand(2, len(windows), generator=generator, dtype=torch.float64).numpy()
        split = self._split(start, end, where)
        wanted = end - split
        second, found = split.copy(), np.zeros(len(windows), dtype=bool)
        for _ in range(_TRIES):
            other = torch.randint(len(self), (len(windows),), generator=generator).numpy()
            place = torch.rand(len(windows), generator=generator, dtype=torch.float64).numpy()
            begin = self._split(self._start[other], self._end[other], place)
            room = self._file.documents[self._document[other] + 1] - begin
            usable = (coin < 0.5) & ~found & (self._document[other] != self._document[windows]) & (room >= wanted)
            second[usable], found = begin[usable], found | usable
        return _Spans(start, split, second, second + wanted, found.astype(np.int64))

    def _split(self, start: Integers, end: Integers, where: NDArray[np.float64]) -> Integers:
        """A beginning of a sentence inside each window, its middle where there is none; `where` is 0 to 1."""
        begins = self._file.sentences
        low, high = np.searchsorted(begins, start, "right"), np.searchsorted(begins, end, "left")
        chosen = begins[np.minimum(low + (where * (high - low)).astype(np.int64), len(begins) - 1)]
        return np.where(high > low, chosen, (start + end) // 2)

    def _row(self, spans: _Spans, index: int) -> tuple[Integers, Integers]:
        """[CLS] first [SEP] (second [SEP]), and the kind of each token."""
        tokens = self._file.tokens
        one = tokens[spans.first[index] : spans.first_end[index]].astype(np.int64)
        two = tokens[spans.second[index] : spans.second_end[index]].astype(np.int64)
        row = np.concatenate([[self._first], one, [self._separator], two, [self._separator]])
        kinds = np.repeat(_LAYOUT, [1, len(one), 1, len(two), 1])
        size = len(row) if self._pairs else len(one) + 2
        return row[:size], kinds[:size]

    def _hidden(self, tokens: Integers, fate: NDArray[np.float32], others: Integers) -> Integers:
        return np.where(fate < 0.8, self._mask, np.where(fate < 0.9, others, tokens))


def _windows(documents: Integers, size: int) -> tuple[Integers, Integers, Integers]:
    """Begin, end and document of the windows of at most `size` tokens. Raises DataError when there are none."""
    counts = -(-np.diff(documents) // size)
    document = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = documents[document] + number * size
    end = np.minimum(start + size, documents[document + 1])
    long_enough = end - start >= min(_SHORTEST, size)
    if not long_enough.any():
        raise DataError(f"dataset.uri: no document has {min(_SHORTEST, size)} tokens; give more text")
    return start[long_enough], end[long_enough], document[long_enough]


def _choose(kinds: Integers, draws: NDArray[np.float32], count: int) -> Integers:
    """The places of `count` tokens of a row that are text, in their order."""
    draws = np.where(kinds < _SPECIAL, draws[: len(kinds)], np.inf)
    return np.sort(np.argpartition(draws, count - 1)[:count])


class PretrainingBatches:
    """This rank's part of the endless stream of training batches."""

    def __init__(
        self, rows: PretrainingRows, parameters: BertPretrainingParameters, shard: Shard, device: torch.device
    ) -> None:
        self._rows = rows
        self._shard = shard
        self._device = device
        self._order = DataOrder(count=len(rows), batch_size=parameters.batch_size, seed=parameters.seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def __next__(self) -> PretrainingBatch:
        """The next batch."""
        draw = next(self._order)
        return self._rows.batch(draw.indices, draw.generator, self._shard, self._device)

    def state_dict(self) -> dict[str, int]:
        """The position in the data."""
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a saved position."""
        self._order.load_state_dict(state)


def held_out_batches(
    rows: PretrainingRows, batch_size: int, shard: Shard, device: torch.device
) -> Iterator[PretrainingBatch]:
    """This rank's share of batches of all windows, the same in every evaluation of every training."""
    alone = Shard(rank=0, world_size=1)
    batches = torch.split(torch.arange(len(rows)), batch_size)
    for number in shard.stride(len(batches)).tolist():
        yield rows.batch(batches[number], torch.Generator().manual_seed(number), alone, device)
