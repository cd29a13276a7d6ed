"""Documents as files of tokens that are made once and mapped into memory, and batches of rows cut from them.

A prepared directory holds, for the part that is learned (`train`) and the part that is held out (`held-out`):

    <part>.tokens     uint16, or uint32 for vocabularies beyond 65,536
    <part>.flags      conversations only, uint8 a token: 1 it is learned, 2 a conversation begins here

and the tokenizer's files. Documents follow each other, each ended by the end token; a row is `length` + 1 tokens, its
inputs all but the last, its targets all but the first, and the next row begins `length` tokens later. Conversations are
put whole into rows of `length` + 1 tokens, several where they fit, padded with the end token.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modelyard_workloads.data.bpe import TextTokenizer, train_tokenizer
from modelyard_workloads.data.chat import ChatTemplateError
from modelyard_workloads.data.language_documents import Conversation, Documents, Text
from modelyard_workloads.data.order import DataOrder, Shard
from modelyard_workloads.data.transfer import to_device
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.causal_lm import CausalLmParameters

PARTS = ("train", "held-out")
LEARNED, BEGINS = 1, 2
IGNORED = -1  # a target that is not learned
_COUNTS = "counts.json"
_TOGETHER = 512  # texts that are tokenised at once
_TOKENIZER_CHARACTERS = 100_000_000  # of the training part, for a tokenizer of its own

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TokenBatch:
    """Rows of this rank."""

    inputs: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64, IGNORED where nothing is learned
    documents: Tensor | None  # (B, T) int64: which document of its row a token belongs to; attention stays within it
    scale: float  # what the sum of this batch's losses is multiplied by: ranks / learned tokens of the global batch


class TokenRows:
    """The rows of one part, mapped into memory."""

    def __init__(self, directory: Path, part: str, *, length: int, end: int, apart: bool) -> None:
        """`length`: T; `apart`: documents are kept apart by attention."""
        self.length = length
        self._end = end
        self._apart = apart
        wide = json.loads((directory / _COUNTS).read_bytes())["wide"]
        self._tokens = _mapped(directory / f"{part}.tokens", np.uint32 if wide else np.uint16)
        flags = directory / f"{part}.flags"
        self._flags = _mapped(flags, np.uint8) if flags.exists() else None
        self._stride = length if self._flags is None else length + 1

    def __len__(self) -> int:
        """Rows with `length` targets; of documents, an incomplete last one is left out."""
        if self._flags is not None:
            return len(self._tokens) // self._stride
        return max(0, (len(self._tokens) - 1) // self._stride)

    def read(self, indices: Array) -> tuple[Array, Array | None]:
        """Rows (B, T + 1) of tokens, and of flags where there are some."""
        places = indices[:, None] * self._stride + np.arange(self.length + 1)
        return self._tokens[places], None if self._flags is None else self._flags[places]

    def batch(self, indices: Array, learned: int, world_size: int) -> TokenBatch:
        """Rows as tensors; `learned` is the number of targets of the global batch that they are a part of."""
        tokens, flags = self.read(indices)
        rows = torch.from_numpy(tokens.astype(np.int64))
        inputs, targets = rows[:, :-1].contiguous(), rows[:, 1:].clone()  # one row is contiguous as it is
        if flags is not None:
            targets[torch.from_numpy(flags[:, 1:] & LEARNED == 0)] = IGNORED
        return TokenBatch(inputs, targets, self._documents(inputs, flags), world_size / max(1, learned))

    def learned(self, indices: Array) -> int:
        """Targets of these rows that are learned."""
        if self._flags is None:
            return len(indices) * self.length
        _, flags = self.read(indices)
        assert flags is not None
        return int((flags[:, 1:] & LEARNED).sum())

    def _documents(self, inputs: Tensor, flags: Array | None) -> Tensor | None:
        if not self._apart:
            return None
        if flags is not None:
            return torch.from_numpy((flags[:, :-1] & BEGINS).astype(np.int64)).cumsum(1)
        ended = (inputs == self._end).long().cumsum(1)
        return torch.cat([torch.zeros_like(ended[:, :1]), ended[:, :-1]], dim=1)


class TokenBatches:
    """The stream of training batches; see `tasks.base.BatchStream`."""

    def __init__(self, rows: TokenRows, shard: Shard, device: torch.device, *, batch_size: int, seed: int) -> None:
        if len(rows) < batch_size:
            raise DataError(
                f"the training data fills {len(rows)} rows of {rows.length} tokens, fewer than batchSize"
                f" ({batch_size}); lower contextLength or batchSize, or give more data"
            )
        self._rows, self._shard, self._device = rows, shard, device
        self._order = DataOrder(count=len(rows), batch_size=batch_size, seed=seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def __next__(self) -> TokenBatch:
        indices = next(self._order).indices
        learned = self._rows.learned(indices.numpy())
        batch = self._rows.batch(self._shard.take(indices).numpy(), learned, self._shard.world_size)
        return on_device(batch, self._device)

    def state_dict(self) -> dict[str, Any]:
        """The position."""
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there."""
        self._order.load_state_dict(state)


def on_device(batch: TokenBatch, device: torch.device) -> TokenBatch:
    """The same batch there."""
    documents = None if batch.documents is None else to_device(batch.documents, device)
    return TokenBatch(to_device(batch.inputs, device), to_device(batch.targets, device), documents, batch.scale)


def prepare(
    directory: Path, documents: Documents, given: TextTokenizer | None, parameters: CausalLmParameters, length: int
) -> None:
    """Write the files of a prepared directory; without a tokenizer given, one is trained. Raises DataError."""
    text = parameters.data_format == "text"
    tokenizer = given or train_tokenizer(_training_texts(documents, parameters), parameters.vocabulary_size)
    tokenizer.save(directory, context=length)
    wide = tokenizer.size > 1 << 16
    writers = {part: _Writer(directory, part, wide=wide, flags=not text) for part in PARTS}
    try:
        if text:
            _write_texts(documents.texts(), tokenizer, writers)
        else:
            _write_conversations(documents.conversations(), tokenizer, writers, length)
    finally:
        for writer in writers.values():
            writer.close()
    counts = {part: writer.tokens for part, writer in writers.items()}
    _check(counts, parameters, length)
    report = documents.policy.report()
    (directory / _COUNTS).write_text(json.dumps({"tokens": counts, "wide": wide, **report}))


def read_counts(directory: Path) -> dict[str, Any]:
    """What was prepared: {tokens: {train, held-out}, wide, skippedRows, examples}."""
    counts: dict[str, Any] = json.loads((directory / _COUNTS).read_bytes())
    return counts


def _check(counts: dict[str, int], parameters: CausalLmParameters, length: int) -> None:
    if not counts["train"]:
        raise DataError("the training data has no text; is everything in it held out?")
    if counts["held-out"] <= length:
        raise DataError(
            f"{counts['held-out']} tokens are held out for evaluation, not one row of contextLength ({length}); raise"
            f" evaluationFraction ({parameters.evaluation_fraction:g}), or put documents into a folder named validation"
        )
    if counts["train"] <= length:
        raise DataError(f"the training data has {counts['train']} tokens, not one row of contextLength ({length})")


class _Writer:
    """Appends tokens to the files of one part."""

    def __init__(self, directory: Path, part: str, *, wide: bool, flags: bool) -> None:
        self._type = np.uint32 if wide else np.uint16
        self._file: BinaryIO = (directory / f"{part}.tokens").open("wb")
        self._flags: BinaryIO | None = (directory / f"{part}.flags").open("wb") if flags else None
        self.tokens = 0

    def write(self, tokens: list[int], flags: Array | None = None) -> None:
        self._file.write(np.asarray(tokens, dtype=self._type).tobytes())
        if self._flags is not None and flags is not None:
            self._flags.write(flags.tobytes())
        self.tokens += len(tokens)

    def close(self) -> None:
        self._file.close()
        if self._flags is not None:
            self._flags.close()


def _training_texts(documents: Documents, parameters: CausalLmParameters) -> Iterator[str]:
    """What a tokenizer is trained on: the beginning of the training part."""
    left = _TOKENIZER_CHARACTERS
    for text in _all_texts(documents, parameters):
        yield text
        left -= len(text)
        if left <= 0:
            return


def _all_texts(documents: Documents, parameters: CausalLmParameters) -> Iterator[str]:
    if parameters.data_format == "text":
        yield from (text.text for text in documents.texts() if not text.held_out)
        return
    for conversation in documents.conversations():
        if not conversation.held_out:
            yield from (message["content"] for message in conversation.messages)


def _write_texts(texts: Iterable[Text], tokenizer: TextTokenizer, writers: dict[str, _Writer]) -> None:
    for group in _groups(texts):
        for text, tokens in zip(group, tokenizer.encode([text.text for text in group]), strict=True):
            writers[PARTS[text.held_out]].write([*tokens, tokenizer.end] if text.ends else tokens)


def _write_conversations(
    conversations: Iterable[Conversation], tokenizer: TextTokenizer, writers: dict[str, _Writer], length: int
) -> None:
    open_rows = {part: _OpenRows(writers[part], length + 1, tokenizer.end) for part in PARTS}
    for conversation in conversations:
        try:
            pieces = tokenizer.template.pieces(conversation.messages)
        except ChatTemplateError as error:
            raise DataError(f"{conversation.place}: {error}") from None
        tokens: list[int] = []
        learned: list[bool] = []
        for piece, (_, answer) in zip(tokenizer.encode([text for text, _ in pieces]), pieces, strict=True):
            tokens += piece
            learned += [answer] * len(piece)
        if tokens[-1] != tokenizer.end:  # templates that leave it to the generation to end
            tokens.append(tokenizer.end)
            learned.append(True)
        open_rows[PARTS[conversation.held_out]].add(tokens, learned)
    for rows in open_rows.values():
        rows.finish()


class _OpenRows:
    """Puts conversations into rows: each into the fullest of the last rows that has room (best fit)."""

    def __init__(self, writer: _Writer, size: int, end: int) -> None:
        self._writer, self._size, self._end = writer, size, end
        self._open: list[tuple[list[int], list[int]]] = []

    def add(self, tokens: list[int], learned: list[bool]) -> None:
        """Of a conversation that is longer than a row, the end is kept: the answers are there."""
        tokens, learned = tokens[-self._size :], learned[-self._size :]
        flags = [LEARNED * answer for answer in learned]
        flags[0] = BEGINS  # its first token has nothing before it
        fitting = [row for row in self._open if len(row[0]) + len(tokens) <= self._size]
        row = max(fitting, key=lambda row: len(row[0]), default=None)
        if row is None:
            row = ([], [])
            self._open.append(row)
        row[0].extend(tokens)
        row[1].extend(flags)
        if len(self._open) > _TOGETHER:
            self._close(self._open.pop(0))

    def finish(self) -> None:
        """Write what is open."""
        for row in self._open:
            self._close(row)
        self._open.clear()

    def _close(self, row: tuple[list[int], list[int]]) -> None:
        missing = self._size - len(row[0])
        flags = row[1] + ([BEGINS] + [0] * (missing - 1) if missing else [])
        self._writer.write(row[0] + [self._end] * missing, np.asarray(flags, dtype=np.uint8))


def _groups(texts: Iterable[Text]) -> Iterator[list[Text]]:
    iterator = iter(texts)
    while group := list(islice(iterator, _TOGETHER)):
        yield group


def _mapped(path: Path, kind: Any) -> Array:
    if path.stat().st_size == 0:
        return np.zeros(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")
