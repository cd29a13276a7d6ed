"""BERT: a bidirectional encoder, and the heads for its tasks. Devlin et al. 2019, arXiv 1810.04805.

Shapes: B rows (texts or pairs of texts), L tokens of the longest row, T tokens of all rows together, W width, H heads,
D = W / H, V vocabulary, K classes, M masked tokens.

Nothing is padded: the rows lie behind each other in one sequence (T,), and everything but attention works on it as it
is. Attention keeps the rows apart: on a GPU in half precision by variable-length flash attention, elsewhere by laying
the rows out as (B, L) for that one operation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from modelyard_workloads.data.transfer import to_device

INITIAL_DEVIATION = 0.02
_HALF = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """All that decides shapes and arithmetic."""

    vocabulary: int  # V
    context: int  # the longest row
    layers: int
    width: int  # W
    heads: int  # H, divides W
    inner: int  # width of the feed-forward network
    types: int = 2  # 0: first text, 1: second
    dropout: float = 0.1
    attention_dropout: float = 0.0
    norm_epsilon: float = 1e-12


# The sizes of Devlin et al. 2019 and of Turc et al. 2019 (arXiv 1908.08962): layers, width, heads.
SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


@dataclass(frozen=True, kw_only=True)
class PackedRows:
    """Rows of different lengths behind each other, and where they begin and end."""

    tokens: Tensor  # (T,) int64
    types: Tensor  # (T,) int64
    lengths: tuple[int, ...]  # of the B rows, none of them 0
    longest: int  # L; kept, since compiled code that looked at `lengths` would be compiled anew for every batch
    positions: Tensor  # (T,) int64, from 0 in every row
    starts: Tensor  # (B + 1,) int32: row i is tokens[starts[i]:starts[i + 1]]
    places: Tensor | None  # (T,) int64: each token's place in (B * L); None where all rows are equally long
    mask: Tensor | None  # (B, 1, 1, L) bool, true at tokens; None likewise

    @property
    def first(self) -> Tensor:
        """Where the rows begin, (B,)."""
        return self.starts[:-1].long()

    def part(self, first: int, last: int) -> PackedRows:
        """The rows from `first` to before `last`."""
        start, end = sum(self.lengths[:first]), sum(self.lengths[:last])
        return _lay_out(self.tokens[start:end], self.types[start:end], self.lengths[first:last])


def pack_rows(
    tokens: Sequence[NDArray[np.integer[Any]]],
    types: Sequence[NDArray[np.integer[Any]]],
    device: torch.device | str = "cpu",
) -> PackedRows:
    """Lay rows behind each other; `types` has a number (0: first text, 1: second) for each token."""
    return _lay_out(_joined(tokens, device), _joined(types, device), tuple(len(row) for row in tokens))


def _joined(rows: Sequence[NDArray[np.integer[Any]]], device: torch.device | str) -> Tensor:
    joined = np.concatenate([*rows, np.empty(0, dtype=np.int64)])
    return to_device(torch.from_numpy(joined.astype(np.int64, copy=False)), device)


def _lay_out(tokens: Tensor, types: Tensor, lengths: tuple[int, ...]) -> PackedRows:
    device, longest = tokens.device, max(lengths, default=0)
    positions = torch.from_numpy(np.concatenate([*map(np.arange, lengths), np.empty(0, dtype=np.int64)])).long()
    places = mask = None
    if min(lengths, default=0) != longest:
        rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        places = to_device(positions + rows * longest, device)
        mask = to_device((torch.arange(longest) < torch.tensor(lengths)[:, None])[:, None, None], device)
    return PackedRows(
        tokens=tokens,
        types=types,
        lengths=lengths,
        longest=longest,
        positions=to_device(positions, device),
        starts=to_device(torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), device),
        places=places,
        mask=mask,
    )


class Attention(nn.Module):
    """(T, W) -> (T, W): every token sees all tokens of its row."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.project = nn.Linear(config.width, 3 * config.width)  # query, key, value
        self.merge = nn.Linear(config.width, config.width)
        self.heads = config.heads
        self.dropout = config.attention_dropout

    def forward(self, x: Tensor, rows: PackedRows) -> Tensor:
        """Project, attend within each row, merge the heads."""
        qkv = self.project(x).view(len(x), 3, self.heads, -1)  # (T, 3, H, D)
        dropout = self.dropout if self.training else 0.0
        merged = _attend_varlen(qkv, rows) if _unpadded(qkv, dropout) else _attend_padded(qkv, rows, dropout)
        return self.merge(merged)  # type: ignore[no-any-return]


def _unpadded(x: Tensor, dropout: float) -> bool:
    """Does attention on such values do without padding?"""
    half = x.dtype in _HALF or torch.is_autocast_enabled(x.device.type)
    return x.is_cuda and half and not dropout


def _attend_varlen(qkv: Tensor, rows: PackedRows) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = qkv.unbind(1)  # (T, H, D)
    attended = varlen_attn(q, k, v, rows.starts, rows.starts, rows.longest, rows.longest)
    return attended.flatten(1)  # type: ignore[union-attr]


def _attend_padded(qkv: Tensor, rows: PackedRows, dropout: float) -> Tensor:
    shape = (len(rows.lengths), rows.longest)
    if rows.places is not None:
        qkv = qkv.new_zeros(shape[0] * shape[1], *qkv.shape[1:]).index_copy(0, rows.places, qkv)
    q, k, v = qkv.view(*shape, *qkv.shape[1:]).permute(2, 0, 3, 1, 4).unbind(0)  # (B, H, L, D)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=rows.mask, dropout_p=dropout)
    merged = attended.transpose(1, 2).reshape(shape[0] * shape[1], -1)
    return merged if rows.places is None else merged[rows.places]


class Block(nn.Module):
    """Attention and a feed-forward network, each added to its input and then normalised."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.expand = nn.Linear(config.width, config.inner)
        self.contract = nn.Linear(config.inner, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rows: PackedRows) -> Tensor:
        """(T, W) -> (T, W)"""
        x = self.attention_norm(x + self.dropout(self.attention(x, rows)))
        return self.norm(x + self.dropout(self.contract(F.gelu(self.expand(x)))))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Tokens -> a vector for each, (T, W)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.types = nn.Embedding(config.types, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self._attention_dropout = config.attention_dropout

    def embed(self, rows: PackedRows) -> Tensor:
        """The sum of the embeddings, (T, W); what explanations of an answer start from."""
        return self.tokens(rows.tokens) + self.positions(rows.positions) + self.types(rows.types)  # type: ignore[no-any-return]

    def forward(self, rows: PackedRows, embedded: Tensor | None = None) -> Tensor:
        """`embedded` stands in for `embed(rows)`."""
        x = self.dropout(self.norm(self.embed(rows) if embedded is None else embedded))
        count = len(x)
        if _unpadded(x, self._attention_dropout if self.training else 0.0):
            x, rows = _rounded(x, rows)
        for block in self.blocks:
            x = block(x, rows)
        return x[:count]  # type: ignore[no-any-return]


def _rounded(x: Tensor, rows: PackedRows) -> tuple[Tensor, PackedRows]:
    """With one row more, of zeros, that makes the tokens a round number: a GPU's libraries choose and load kernels for
    every number of tokens that they have not met, which takes longer than to compute a few tokens in vain.
    """
    count = len(x)
    end = round_up(count + 1)
    starts = F.pad(rows.starts, (0, 1), value=end)
    return F.pad(x, (0, 0, 0, end - count)), replace(rows, starts=starts, longest=max(rows.longest, end - count))


def round_up(count: int) -> int:
    """The next of 16 numbers between powers of two, a multiple of 64 at least."""
    step = max(64, 1 << max(0, count.bit_length() - 5))
    return -(-count // step) * step


class Pooler(nn.Module):
    """The vector of the first token of each row, (B, W)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, rows: PackedRows) -> Tensor:
        """(T, W) -> (B, W)"""
        return torch.tanh(self.dense(x[rows.first]))


class MaskedHead(nn.Module):
    """What stood at a token: (M, W) -> (M, V). The output weights are the token embeddings."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """`embeddings` (V, W)"""
        return F.linear(self.norm(F.gelu(self.dense(x))), embeddings, self.bias)


class PretrainingLogits(NamedTuple):
    """`masked` (M, V); `next_sentence` (B, 2), class 0: the second text follows the first; None where it is off."""

    masked: Tensor
    next_sentence: Tensor | None


class BertPretraining(nn.Module):
    """Masked-language modelling and, unless it is off, next-sentence prediction."""

    def __init__(self, config: BertConfig, *, next_sentence: bool) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.masked = MaskedHead(config)
        self.pooler = Pooler(config) if next_sentence else None
        self.next_sentence = nn.Linear(config.width, 2) if next_sentence else None
        self.apply(_initialise)

    def regions(self) -> Iterable[nn.Module]:
        """See `backward.Regional`."""
        return [*self.encoder.blocks, self.masked]

    def forward(self, rows: PackedRows, masked: Tensor, embedded: Tensor | None = None) -> PretrainingLogits:
        """`masked` (M,): places in (T,). Only these are compared with the vocabulary."""
        x = self.encoder(rows, embedded)
        count = len(masked)
        if x.is_cuda:
            masked = F.pad(masked, (0, round_up(count) - count))
        logits = self.masked(x[masked], self.encoder.tokens.weight)[:count]
        if self.pooler is None or self.next_sentence is None:
            return PretrainingLogits(logits, None)
        return PretrainingLogits(logits, self.next_sentence(self.pooler(x, rows)))


class BertClassifier(nn.Module):
    """A class for each row."""

    def __init__(self, config: BertConfig, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.pooler = Pooler(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.width, classes)
        self.apply(_initialise)

    def regions(self) -> Iterable[nn.Module]:
        """See `backward.Regional`."""
        return self.encoder.blocks

    def forward(self, rows: PackedRows, embedded: Tensor | None = None) -> Tensor:
        """(B, K)"""
        return self.classifier(self.dropout(self.pooler(self.encoder(rows, embedded), rows)))  # type: ignore[no-any-return]


class BertTagger(nn.Module):
    """A class for each token: entities, or where an answer begins and ends (K = 2)."""

    def __init__(self, config: BertConfig, classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.width, classes)
        self.apply(_initialise)

    def regions(self) -> Iterable[nn.Module]:
        """See `backward.Regional`."""
        return self.encoder.blocks

    def forward(self, rows: PackedRows, embedded: Tensor | None = None) -> Tensor:
        """(T, K)"""
        return self.classifier(self.dropout(self.encoder(rows, embedded)))  # type: ignore[no-any-return]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_DEVIATION)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
