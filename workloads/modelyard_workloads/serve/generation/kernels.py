"""Triton kernels of a decoding step, where every sequence has one token: attention reads each key and value once, from
where it lies in the cache.

Shapes: N sequences, H query heads, K key/value heads, D width of a head, R columns of the table, M blocks at most.
Imported only where there is a GPU: the CPU's image has no Triton.

Sources: Dao et al. 2023 (Flash-Decoding: the tokens of a sequence in parts, put together by their log-sums); Kwon et
al. 2023 (blocks found through a table).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 64  # tokens that a program reads at a time
_LEAST_ROWS = 16  # of a matrix product on tensor cores
_PROGRAMS = 1024  # enough to keep every multiprocessor of the largest GPUs busy to the end


@triton.jit  # type: ignore[untyped-decorator]
def _turn_and_write(  # type: ignore[no-untyped-def]
    projected,  # (N, (H + 2K) * D)
    cosine,  # (N, D) float32; unused without ROTARY
    sine,
    turned,  # (N, H, D), written
    keys,  # (slots, K, D) of a layer, written
    values,
    table,  # (M, R) int32
    positions,  # (N,) int32
    columns,  # R
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    ROTARY: tl.constexpr,
):
    row = tl.program_id(0)
    head = tl.program_id(1)
    place = tl.arange(0, PADDED)
    inside = place < WIDTH
    source = projected + row.to(tl.int64) * (HEADS + 2 * KV_HEADS) * WIDTH + head * WIDTH
    value = tl.load(source + place, mask=inside, other=0.0)
    kind = value.dtype
    if ROTARY:  # noqa: SIM102 - decided when it is compiled
        if head < HEADS + KV_HEADS:
            other = tl.load(source + (place + WIDTH // 2) % WIDTH, mask=inside, other=0.0).to(tl.float32)
            cos = tl.load(cosine + row * WIDTH + place, mask=inside, other=0.0)
            sin = tl.load(sine + row * WIDTH + place, mask=inside, other=0.0)
            value = (value.to(tl.float32) * cos + other * sin).to(kind)
    if head < HEADS:
        tl.store(turned + (row * HEADS + head) * WIDTH + place, value, mask=inside)
    else:
        position = tl.load(positions + row)
        block = tl.load(table + (position // SIZE) * columns + row).to(tl.int64)
        slot = block * SIZE + position % SIZE
        if head < HEADS + KV_HEADS:
            tl.store(keys + (slot * KV_HEADS + head - HEADS) * WIDTH + place, value, mask=inside)
        else:
            tl.store(values + (slot * KV_HEADS + head - HEADS - KV_HEADS) * WIDTH + place, value, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _attend_part(  # type: ignore[no-untyped-def]
    query,  # (N, H, D)
    keys,  # (slots, K, D)
    values,
    table,  # (M, R) int32
    positions,  # (N,) int32; a sequence has one token more
    columns,  # R
    mixed,  # (N, H, PARTS, D), written: float32, or with one part the result
    sums,  # (N, H, PARTS) float32, written: logarithm of the sum of the exponentials
    scale,  # of the scores, for exponentials of 2
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    SIZE: tl.constexpr,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
):
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    part = tl.program_id(2)
    length = tl.load(positions + sequence) + 1
    share = tl.cdiv(tl.cdiv(length, PARTS), TILE) * TILE
    begin = part * share
    end = tl.minimum(begin + share, length)
    rows = tl.arange(0, ROWS)
    place = tl.arange(0, PADDED)
    heads = sequence * GROUP * KV_HEADS + head * GROUP + rows
    asked = (rows < GROUP)[:, None] & (place < WIDTH)[None, :]
    q = tl.load(query + heads[:, None] * WIDTH + place[None, :], mask=asked, other=0.0)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sum_of = tl.zeros((ROWS, PADDED), tl.float32)
    for first in range(begin, end, TILE):
        token = first + tl.arange(0, TILE)
        there = token < end
        block = tl.load(table + (token // SIZE) * columns + sequence, mask=there, other=0).to(tl.int64)
        slot = (block * SIZE + token % SIZE) * KV_HEADS + head
        where = slot[:, None] * WIDTH + place[None, :]
        known = there[:, None] & (place < WIDTH)[None, :]
        k = tl.load(keys + where, mask=known, other=0.0)
        v = tl.load(values + where, mask=known, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(there[None, :], scores, float("-inf"))
        highest = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - highest[:, None])
        kept = tl.exp2(largest - highest)
        total = total * kept + tl.sum(weights, 1)
        sum_of = tl.dot(weights.to(v.dtype), v, sum_of * kept[:, None], input_precision="ieee")
        largest = highest
    target = (heads * PARTS + part)[:, None] * WIDTH + place[None, :]
    if PARTS == 1:
        tl.store(mixed + target, (sum_of / total[:, None]).to(q.dtype), mask=asked)
    else:
        some = total > 0  # a short sequence has no tokens in the last parts
        tl.store(mixed + target, sum_of / tl.where(some, total, 1.0)[:, None], mask=asked)
        logarithm = tl.where(some, largest + tl.log2(tl.where(some, total, 1.0)), float("-inf"))
        tl.store(sums + heads * PARTS + part, logarithm, mask=rows < GROUP)


@triton.jit  # type: ignore[untyped-decorator]
def _join_parts(  # type: ignore[no-untyped-def]
    mixed,  # (N * H, PARTS, D) float32
    sums,  # (N * H, PARTS) float32
    joined,  # (N * H, D), written
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    PARTS: tl.constexpr,
    PADDED_PARTS: tl.constexpr,
):
    head = tl.program_id(0)
    part = tl.arange(0, PADDED_PARTS)
    place = tl.arange(0, PADDED)
    logarithms = tl.load(sums + head * PARTS + part, mask=part < PARTS, other=float("-inf"))
    weights = tl.exp2(logarithms - tl.max(logarithms, 0))
    known = (part < PARTS)[:, None] & (place < WIDTH)[None, :]
    found = tl.load(mixed + (head * PARTS + part)[:, None] * WIDTH + place[None, :], mask=known, other=0.0)
    result = tl.sum(found * weights[:, None], 0) / tl.sum(weights, 0)
    tl.store(joined + head * WIDTH + place, result.to(joined.dtype.element_ty), mask=place < WIDTH)


def turn_and_write(
    projected: Tensor,
    angles: tuple[Tensor, Tensor] | None,
    cache: tuple[Tensor, Tensor],
    table: Tensor,
    positions: Tensor,
    *,
    block_tokens: int,
) -> Tensor:
    """The new tokens' heads: queries turned to their positions, keys too and with the values into the cache.

    projected (N, H + 2K, D) contiguous, angles (N, D) each as `RotaryPositions.at` gives them, cache: keys and values
    of a layer (slots, K, D), table (M, R) int32 with the blocks of a sequence in its column, positions (N,) int32
    -> queries (N, H, D)
    """
    keys, values = cache
    count, heads, width = projected.shape
    queries = heads - 2 * keys.shape[1]
    turned = projected.new_empty(count, queries, width)
    cosine, sine = angles if angles is not None else (projected, projected)
    _turn_and_write[(count, heads)](
        projected,
        cosine,
        sine,
        turned,
        keys,
        values,
        table,
        positions,
        table.stride(0),
        HEADS=queries,
        KV_HEADS=keys.shape[1],
        WIDTH=width,
        PADDED=triton.next_power_of_2(width),
        SIZE=block_tokens,
        ROTARY=angles is not None,
        num_warps=1,
    )
    return turned


def attend(
    query: Tensor, cache: tuple[Tensor, Tensor], table: Tensor, positions: Tensor, *, block_tokens: int
) -> Tensor:
    """Attention of one new token of each sequence to itself and all before it; see `turn_and_write` for the shapes.

    query (N, H, D) -> (N, H, D). Scores and sums are float32.
    """
    keys, values = cache
    count, heads, width = query.shape
    kv_heads = keys.shape[1]
    parts = _parts(count * kv_heads, len(table) * block_tokens)
    shape = (count, heads, parts, width)
    mixed = torch.empty(shape, dtype=query.dtype if parts == 1 else torch.float32, device=query.device)
    sums = torch.empty(shape[:3], dtype=torch.float32, device=query.device)
    padded = max(triton.next_power_of_2(width), _LEAST_ROWS)
    _attend_part[(count, kv_heads, parts)](
        query,
        keys,
        values,
        table,
        positions,
        table.stride(0),
        mixed,
        sums,
        width**-0.5 * 1.4426950408889634,  # log2(e)
        GROUP=heads // kv_heads,
        ROWS=max(triton.next_power_of_2(heads // kv_heads), _LEAST_ROWS),
        KV_HEADS=kv_heads,
        WIDTH=width,
        PADDED=padded,
        SIZE=block_tokens,
        TILE=_TILE,
        PARTS=parts,
        num_warps=4,
        num_stages=3,
    )
    if parts == 1:
        return mixed.view(count, heads, width)
    joined = torch.empty_like(query)
    _join_parts[(count * heads,)](
        mixed,
        sums,
        joined,
        WIDTH=width,
        PADDED=padded,
        PARTS=parts,
        PADDED_PARTS=triton.next_power_of_2(parts),
        num_warps=1,
    )
    return joined


def _parts(programs: int, longest: int) -> int:
    """Into how many parts the tokens of a sequence are cut; a power of two, so that few kernels are compiled."""
    parts = 1
    while parts * programs < _PROGRAMS and parts * _TILE < longest and parts < 64:
        parts *= 2
    return parts
