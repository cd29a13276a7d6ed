"""The key/value cache and attention over its blocks.

Shapes: T tokens of a step in one row, H query heads, K key/value heads, D width of a head, S tokens of a sequence so
far.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modelyard_workloads.models.decoder import DecoderConfig
from modelyard_workloads.serve.generation.blocks import Table
from modelyard_workloads.serve.generation.scheduler import Work


def bytes_per_token(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Keys and values of all layers for one token."""
    return 2 * config.layers * config.key_value_heads * config.head_width * dtype.itemsize


class KeyValueCache:
    """Keys and values of all layers in one tensor, by token slot; block b has the slots from b * size on."""

    def __init__(
        self, config: DecoderConfig, blocks: int, size: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.size = size
        shape = (2 * config.layers, blocks * size, config.key_value_heads, config.head_width)
        self._slots = torch.zeros(shape, dtype=dtype, device=device)  # (2L, slots, K, D)
        self._blocks = self._slots.view(2 * config.layers, blocks, -1)
        self._by_head = self._slots.transpose(1, 2).unsqueeze(1)  # (2L, 1, K, slots, D)

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """key and value (T, K, D) of one layer into slots (T,)"""
        self._slots[2 * layer].index_copy_(0, slots, key)
        self._slots[2 * layer + 1].index_copy_(0, slots, value)

    def layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, (slots, K, D) each, to read and write in place."""
        return self._slots[2 * layer], self._slots[2 * layer + 1]

    def views(self, table: Table, tokens: int) -> tuple[Tensor, ...]:
        """Of a table whose blocks lie side by side: keys and values in turns for all layers, (1, K, S, D) each."""
        return self._by_head.narrow(3, table.blocks[0] * self.size, tokens).unbind(0)

    def gather_many(self, half: int, blocks: Tensor) -> Tensor:
        """Copy keys or values of many sequences, blocks (N, M): (N, K, S, D) with S = M * size"""
        heads, width = self._slots.shape[2:]
        copied = self._blocks[half].index_select(0, blocks.flatten())
        return copied.view(len(blocks), -1, heads, width).transpose(1, 2)

    def gather(self, half: int, blocks: Tensor, tokens: int) -> Tensor:
        """Copy keys (`half` = 2 * layer) or values (and 1) of blocks anywhere: (1, K, S, D)"""
        heads, width = self._slots.shape[2:]
        copied = self._blocks[half].index_select(0, blocks).view(-1, heads, width)
        return copied[:tokens].transpose(0, 1).unsqueeze(0)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One sequence's tokens of the step: rows `begin` to `end`, the last of them its S-th token."""

    begin: int
    end: int
    tokens: int  # S
    views: tuple[Tensor, ...] | None  # of all layers, where its blocks lie side by side
    blocks: Tensor | None  # else
    mask: Tensor | None  # (T, S), True where a token may look; None: everywhere, or see `causal`
    causal: bool  # the piece is the sequence's beginning: token i sees 0 to i


@dataclass(frozen=True, slots=True)
class _Batch:
    """Sequences that have one token each in the step: `rows` (N,) of it, blocks (N, M), mask (N, 1, 1, S)."""

    rows: Tensor
    blocks: Tensor
    mask: Tensor

    @classmethod
    def of(cls, works: Several[tuple[int, Work]], size: int, device: torch.device) -> _Batch:
        """The works with their rows. Shorter tables are filled up with block 0, which is masked."""
        tables = [work.sequence.table.blocks for _, work in works]
        longest = max(map(len, tables))
        lengths = torch.tensor([work.sequence.computed + 1 for _, work in works], device=device)
        return cls(
            rows=torch.tensor([row for row, _ in works], device=device),
            blocks=torch.tensor([table + [0] * (longest - len(table)) for table in tables], device=device),
            mask=(torch.arange(longest * size, device=device) < lengths.unsqueeze(1))[:, None, None],
        )


class PagedAttention:
    """Attention of one step; an `Attend` of the decoder. The step's tokens stand one behind the other in one row.

    On a CPU every sequence is a call of its own, which reads the cache where it lies. An accelerator is kept busy by
    few large calls: there (`together`) the sequences that generate are copied side by side, padded, into one call.
    """

    def __init__(self, cache: KeyValueCache, works: Several[Work], slots: Tensor, *, together: bool = False) -> None:
        self._cache = cache
        self._slots = slots
        self._pieces: list[_Piece] = []
        singles: list[tuple[int, Work]] = []
        begin = 0
        for work in works:
            if together and work.count == 1:
                singles.append((begin, work))
            else:
                self._pieces.append(self._piece(work, begin))
            begin += work.count
        self._batch = _Batch.of(singles, cache.size, slots.device) if singles else None

    def _piece(self, work: Work, begin: int) -> _Piece:
        table, done = work.sequence.table, work.sequence.computed
        device, tokens = self._slots.device, done + work.count
        apart = not table.side_by_side
        mask = None
        if done and work.count > 1:
            mask = torch.ones(work.count, tokens, dtype=torch.bool, device=device).tril(diagonal=done)
        return _Piece(
            begin=begin,
            end=begin + work.count,
            tokens=tokens,
            views=None if apart else self._cache.views(table, tokens),
            blocks=torch.tensor(table.blocks, device=device) if apart else None,
            mask=mask,
            causal=not done and work.count > 1,
        )

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (1, T, H, D), key and value (1, T, K, D) -> (1, T, H, D)"""
        self._cache.write(layer, self._slots, key[0], value[0])
        if self._batch is not None:
            return self._attend_batch(self._batch, layer, query[0]).unsqueeze(0)
        mixed = [self._attend(piece, layer, query[0, piece.begin : piece.end]) for piece in self._pieces]
        return torch.cat(mixed).unsqueeze(0) if len(mixed) > 1 else mixed[0].unsqueeze(0)

    def _attend_batch(self, batch: _Batch, layer: int, query: Tensor) -> Tensor:
        """query (T, H, D) of the step -> the same shape: the batch in one call, then the other pieces"""
        keys = self._cache.gather_many(2 * layer, batch.blocks)
        values = self._cache.gather_many(2 * layer + 1, batch.blocks)
        grouped = query[batch.rows].view(len(batch.rows), keys.shape[1], -1, query.shape[2])
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=batch.mask)
        together = mixed.reshape(-1, *query.shape[1:])
        if not self._pieces:
            return together
        found = torch.empty_like(query)
        found[batch.rows] = together
        for piece in self._pieces:
            found[piece.begin : piece.end] = self._attend(piece, layer, query[piece.begin : piece.end])
        return found

    def _attend(self, piece: _Piece, layer: int, query: Tensor) -> Tensor:
        """query (T, H, D) of one sequence -> (T, H, D)"""
        if piece.views is not None:
            keys, values = piece.views[2 * layer], piece.views[2 * layer + 1]
        else:
            assert piece.blocks is not None
            keys = self._cache.gather(2 * layer, piece.blocks, piece.tokens)
            values = self._cache.gather(2 * layer + 1, piece.blocks, piece.tokens)
        if len(query) == 1:
            # The heads that share keys are rows of one query.
            grouped = query.view(1, keys.shape[1], -1, query.shape[2])
            return F.scaled_dot_product_attention(grouped, keys, values).reshape(query.shape)
        mixed = F.scaled_dot_product_attention(
            query.transpose(0, 1).unsqueeze(0),
            keys,
            values,
            attn_mask=piece.mask,
            is_causal=piece.causal,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        return mixed[0].transpose(0, 1)
