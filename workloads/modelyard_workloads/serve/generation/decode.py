"""A decoding step on a GPU: one token of each sequence, from its embedding to the most probable next one.

The step is recorded once for each number of rows (1, 2, 4, 8, then by 16) as a CUDA graph over tensors that stay where
they are; a step fills them with one transfer, replays the graph, and reads the tokens. The rows that are left over
compute token 0 into a block that no sequence has. Prompts do not come here: they have many tokens, and no two alike.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from modelyard_workloads.models.decoder import AttendProjected, Decoder
from modelyard_workloads.serve.generation.cache import KeyValueCache
from modelyard_workloads.serve.generation.sequences import Sequence

log = logging.getLogger(__name__)

_TOKENS, _POSITIONS, _TABLE = 0, 1, 2  # rows of the transfer; the table has the others
_ROWS_APART = 16  # of the larger recorded steps


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a step computed for N sequences; valid until the next one."""

    logits: Tensor  # (N, V), of the weights' type
    best: Tensor  # (N,) int64, the most probable tokens


class DecodeRunner(Protocol):
    """Computes the last token of each of at most `most` sequences; all others of theirs are in the cache."""

    most: int

    def run(self, sequences: Several[Sequence]) -> Decoded:
        """The logits of the next tokens; the tables have room for the token that is computed."""
        ...


class MakeRunner(Protocol):
    """Makes the runner of an engine."""

    def __call__(
        self, model: Decoder, cache: KeyValueCache, *, spare: int, most: int, longest: int
    ) -> DecodeRunner | None:
        """See `GraphRunner`. None: there is none for this device."""
        ...


class GraphRunner:
    """Every step over the same tensors; `record`: as CUDA graphs, which needs a GPU. Without, the same kernels one by
    one.
    """

    def __init__(
        self, model: Decoder, cache: KeyValueCache, *, spare: int, most: int, longest: int, record: bool
    ) -> None:
        """`spare`: a block of the cache that no sequence has; `longest`: tokens of a sequence."""
        self.most = most
        self._model = model
        self._cache = cache
        self._spare = spare
        self._sizes = row_counts(most)
        self._device = model.embedding.weight.device
        shape = (_TABLE + -(-longest // cache.size), self._sizes[-1])
        self._inputs = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._staged = torch.zeros(shape, dtype=torch.int32, pin_memory=record)
        self._columns = self._staged.numpy()
        self._tables: list[list[int]] = [[] for _ in range(shape[1])]  # what the columns hold
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Decoded]] = {}
        if record:
            self._record()

    def run(self, sequences: Several[Sequence]) -> Decoded:
        """See `DecodeRunner`."""
        count = len(sequences)
        rows = next(size for size in self._sizes if size >= count)
        self._fill(sequences, rows)
        if self._graphs:
            graph, decoded = self._graphs[rows]
            graph.replay()
        else:
            decoded = self._step(rows)
        return Decoded(decoded.logits[:count], decoded.best[:count])

    def _fill(self, sequences: Several[Sequence], rows: int) -> None:
        """Tokens, positions and those columns of the table that have changed, to the device in one transfer.

        The staged copy may be written again at once: whoever called read the tokens of the step before, so its
        transfer is over.
        """
        count = len(sequences)
        columns = self._columns
        columns[_TOKENS, :count] = [sequence.tokens[-1] for sequence in sequences]
        columns[_POSITIONS, :count] = [sequence.computed for sequence in sequences]
        columns[:_TABLE, count:rows] = 0
        idle = [self._spare]
        longest = 1
        for column in range(rows):
            blocks = sequences[column].table.blocks if column < count else idle
            longest = max(longest, len(blocks))
            if self._tables[column] != blocks:
                columns[_TABLE : _TABLE + len(blocks), column] = blocks
                self._tables[column] = list(blocks)
        used = _TABLE + longest
        self._inputs[:used].copy_(self._staged[:used], non_blocking=True)

    def _step(self, rows: int) -> Decoded:
        tokens = self._inputs[_TOKENS, :rows].unsqueeze(0)
        positions = self._inputs[_POSITIONS, :rows]
        attention = _DecodeAttention(self._model, self._cache, self._inputs[_TABLE:], positions)
        hidden = self._model.hidden(tokens, positions.unsqueeze(0), attention)[0]
        logits = self._model.head(hidden)
        return Decoded(logits, logits.argmax(dim=1))

    @torch.inference_mode()
    def _record(self) -> None:
        """The largest first: the smaller ones then find their memory in its pool."""
        self._fill([], self._sizes[-1])
        pool = None
        for rows in reversed(self._sizes):
            self._step(rows)  # compiles kernels, which a recording cannot
            torch.cuda.synchronize(self._device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                decoded = self._step(rows)
            pool = graph.pool()
            self._graphs[rows] = graph, decoded
        log.info("recorded the decoding step for %d numbers of rows, up to %d", len(self._sizes), self._sizes[-1])


class _DecodeAttention(AttendProjected):
    """Turns the heads, writes and reads the cache, in two or three kernels."""

    def __init__(self, model: Decoder, cache: KeyValueCache, table: Tensor, positions: Tensor) -> None:
        # Not at the top: the CPU's image has no Triton.
        from modelyard_workloads.serve.generation import kernels

        self._kernels = kernels
        self._cache = cache
        self._table = table
        self._positions = positions
        self._angles: tuple[Tensor, Tensor] | None = None
        if model.rotary is not None:
            cosine, sine = model.rotary.at(positions.unsqueeze(0))
            self._angles = cosine[0, :, 0].contiguous(), sine[0, :, 0].contiguous()

    def attend_projected(self, layer: int, projected: Tensor) -> Tensor:
        """projected (1, N, H + 2K, D) -> (1, N, H, D)"""
        layers, size = self._cache.layer(layer), self._cache.size
        query = self._kernels.turn_and_write(
            projected[0], self._angles, layers, self._table, self._positions, block_tokens=size
        )
        mixed = self._kernels.attend(query, layers, self._table, self._positions, block_tokens=size)
        return mixed.unsqueeze(0)


def row_counts(most: int) -> list[int]:
    """The numbers of rows for which a step is recorded: 1, 2, 4, 8, then by 16, the last one holds `most`."""
    counts = [1, 2, 4, 8, *range(_ROWS_APART, most + _ROWS_APART, _ROWS_APART)]
    return counts[: next(place for place, rows in enumerate(counts) if rows >= most) + 1]


def graph_runner(model: Decoder, cache: KeyValueCache, *, spare: int, most: int, longest: int) -> DecodeRunner | None:
    """The runner of a CUDA device; None where Triton is missing, or the device is another one."""
    if model.embedding.weight.device.type != "cuda":
        return None
    try:
        import triton  # noqa: F401 - is it there?
    except ImportError:
        log.warning("Triton is not installed: decoding takes the slower way")
        return None
    return GraphRunner(model, cache, spare=spare, most=most, longest=longest, record=True)
