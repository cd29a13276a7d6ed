"""The decoder of the GPT family: GPT-2 (learned positions, LayerNorm, GELU) and Llama (rotary positions, RMSNorm,
SwiGLU, grouped-query attention) as one module.

Shapes: B rows, T tokens of a row, W width, H query heads, K key/value heads, D = width of a head, V vocabulary.

Attention itself is a callable that the caller gives (`Attend`): the block projects, turns and merges the heads, and
knows nothing of masks, caches or pages. So training, packed documents and a server with a paged cache share one model.

Sources: Radford et al. 2019 (GPT-2); Touvron et al. 2023 (Llama); Su et al. 2021 (rotary positions); Zhang and
Sennrich 2019 (RMSNorm); Shazeer 2020 (SwiGLU); Ainslie et al. 2023 (grouped-query attention).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_DEVIATION = 0.02


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """How the frequencies of rotary positions are stretched beyond the trained context: `linear`, or by wavelength as
    Llama 3.1 does.
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_context: int = 8192


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """All that decides shapes and arithmetic. `gpt2(...)` and `llama(...)` fill in the choices of a family."""

    family: Literal["gpt2", "llama"]
    vocabulary: int  # V
    context: int  # the longest row
    layers: int
    width: int  # W
    heads: int  # H
    key_value_heads: int  # K; divides H
    head_width: int  # D
    inner: int  # width of the feed-forward network
    activation: Literal["gelu", "gelu_tanh", "silu"]  # of the feed-forward network; silu is gated (SwiGLU)
    tied_head: bool  # the output projection is the token embedding
    norm_epsilon: float
    dropout: float = 0.0
    rotary_base: float = 10_000.0
    rotary_scaling: RotaryScaling | None = None
    attention_bias: bool = False  # llama only: gpt2 has biases everywhere

    @classmethod
    def gpt2(
        cls, *, vocabulary: int, context: int, layers: int, width: int, heads: int, dropout: float = 0.0
    ) -> DecoderConfig:
        """GPT-2's choices: a tied head, a feed-forward network four times the width, tanh GELU."""
        return cls(
            family="gpt2",
            vocabulary=vocabulary,
            context=context,
            layers=layers,
            width=width,
            heads=heads,
            key_value_heads=heads,
            head_width=width // heads,
            inner=4 * width,
            activation="gelu_tanh",
            tied_head=True,
            norm_epsilon=1e-5,
            dropout=dropout,
        )

    @classmethod
    def llama(
        cls,
        *,
        vocabulary: int,
        context: int,
        layers: int,
        width: int,
        heads: int,
        key_value_heads: int | None = None,
        tied_head: bool = True,
        dropout: float = 0.0,
    ) -> DecoderConfig:
        """Llama's choices; the feed-forward network is 8/3 of the width, rounded up to a multiple of 64."""
        return cls(
            family="llama",
            vocabulary=vocabulary,
            context=context,
            layers=layers,
            width=width,
            heads=heads,
            key_value_heads=key_value_heads or heads,
            head_width=width // heads,
            inner=-(-8 * width // 3 // 64) * 64,
            activation="silu",
            tied_head=tied_head,
            norm_epsilon=1e-5,
            dropout=dropout,
        )

    @property
    def bias(self) -> bool:
        """Have the projections and norms biases?"""
        return self.family == "gpt2"

    @property
    def gated(self) -> bool:
        """Is the feed-forward network gated (SwiGLU)?"""
        return self.activation == "silu"


class Attend(Protocol):
    """Attention of one layer. What is causal, masked, cached or paged is the caller's."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query (B, T, H, D), key and value (B, T, K, D) of the new tokens, positions applied -> (B, T, H, D)"""
        ...


class AttendProjected(ABC):
    """Attention that applies the positions itself: kernels that turn the heads and write a cache in one go."""

    @abstractmethod
    def attend_projected(self, layer: int, projected: Tensor) -> Tensor:
        """projected (B, T, H + 2K, D): queries, keys and values of the new tokens -> (B, T, H, D)"""


@dataclass(frozen=True)
class CausalAttention:
    """Every token sees itself and what is before it in its row; with `mask` (B, 1, T, T), True where it may look, that
    alone decides (packed documents). PyTorch's fused kernels.
    """

    mask: Tensor | None = None
    dropout: float = 0.0

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ARG002 - the same in all
        """See `Attend`."""
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=self.mask,
            dropout_p=self.dropout,
            is_causal=self.mask is None,
            enable_gqa=query.shape[2] != key.shape[2],
        )
        return mixed.transpose(1, 2)


class RotaryPositions(nn.Module):
    """Turns pairs (i, i + D/2) of a head's numbers by an angle that grows with the position."""

    frequencies: Tensor  # (D/2,)

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.register_buffer("frequencies", rotary_frequencies(config), persistent=False)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions (B, T) -> cosine and sine, each (B, T, 1, D); the first half of the sine is negated: see `turn`"""
        angles = (positions.unsqueeze(2).float() * self.frequencies).unsqueeze(2)
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat([cosine, cosine], dim=-1), torch.cat([-sine, sine], dim=-1)

    @staticmethod
    def turn(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """heads (B, T, H or K, D) -> the same shape and dtype, turned"""
        half = heads.shape[-1] // 2
        swapped = torch.cat([heads[..., half:], heads[..., :half]], dim=-1)
        return (heads * cosine + swapped * sine).to(heads.dtype)


def rotary_frequencies(config: DecoderConfig) -> Tensor:
    """Radians a position for each pair of a head's numbers, (D/2,)."""
    exponents = torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width
    frequencies = 1.0 / config.rotary_base**exponents
    scaling = config.rotary_scaling
    if scaling is None:
        return frequencies
    slowed = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slowed
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_context / wavelengths
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    share = ((turns - scaling.low_frequency_factor) / span).clamp(0, 1)  # 1: fast, kept; 0: slow, stretched
    return (1 - share) * slowed + share * frequencies


class SelfAttention(nn.Module):
    """One projection to all heads, attention, one projection back."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self._layer = layer
        self._heads = (config.heads, config.key_value_heads, config.key_value_heads)
        self._head_width = config.head_width
        bias = config.bias or config.attention_bias
        self.project = nn.Linear(config.width, sum(self._heads) * config.head_width, bias=bias)
        self.merge = nn.Linear(config.heads * config.head_width, config.width, bias=bias)

    def forward(self, hidden: Tensor, angles: tuple[Tensor, Tensor] | None, attend: Attend | AttendProjected) -> Tensor:
        """hidden (B, T, W), angles as `RotaryPositions.at` gives them -> (B, T, W)"""
        rows, tokens, _ = hidden.shape
        projected = self.project(hidden).view(rows, tokens, sum(self._heads), self._head_width)
        if isinstance(attend, AttendProjected):
            mixed = attend.attend_projected(self._layer, projected)
        else:
            query, key, value = projected.split(self._heads, dim=2)
            if angles is not None:
                query, key = RotaryPositions.turn(query, *angles), RotaryPositions.turn(key, *angles)
            mixed = attend(self._layer, query, key, value)
        merged: Tensor = self.merge(mixed.reshape(rows, tokens, -1))
        return merged


class FeedForward(nn.Module):
    """Two projections with an activation between them; gated, the first one makes gate and value together."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self._config = config
        self.expand = nn.Linear(config.width, (2 if config.gated else 1) * config.inner, bias=config.bias)
        self.contract = nn.Linear(config.inner, config.width, bias=config.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)"""
        expanded: Tensor = self.expand(hidden)
        if self._config.gated:
            gate, value = expanded.chunk(2, dim=-1)
            active = F.silu(gate) * value
        else:
            active = F.gelu(expanded, approximate="tanh" if self._config.activation == "gelu_tanh" else "none")
        contracted: Tensor = self.contract(active)
        return contracted


class Block(nn.Module):
    """Attention and feed-forward network, each added to the stream it read, normalised, before it."""

    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = _norm(config)
        self.attention = SelfAttention(config, layer)
        self.feed_forward_norm = _norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, angles: tuple[Tensor, Tensor] | None, attend: Attend | AttendProjected) -> Tensor:
        """(B, T, W) -> (B, T, W)"""
        hidden = hidden + self.dropout(self.attention(self.attention_norm(hidden), angles, attend))
        added: Tensor = hidden + self.dropout(self.feed_forward(self.feed_forward_norm(hidden)))
        return added


class Decoder(nn.Module):
    """Tokens to logits of the next token."""

    def __init__(self, config: DecoderConfig) -> None:
        """Initial weights as GPT-2 has them: normal, the projections into the stream smaller with its depth."""
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        learned = config.family == "gpt2"
        self.position_embedding = nn.Embedding(config.context, config.width) if learned else None
        self.rotary = None if learned else RotaryPositions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = _norm(config)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.tie_head()
        if config.tied_head:
            # One tensor is saved once.
            self.register_state_dict_post_hook(_without_head)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_post_hook(_head_is_tied)  # type: ignore[no-untyped-call]
        self._initialise()

    def tie_head(self) -> None:
        """Make head and embedding one tensor, where the configuration says so: again after weights were assigned."""
        if self.config.tied_head:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor, positions: Tensor | None = None, attend: Attend | None = None) -> Tensor:
        """tokens (B, T) int64, positions as for `hidden` -> logits (B, T, V)"""
        logits: Tensor = self.head(self.hidden(tokens, positions, attend))
        return logits

    def hidden(
        self, tokens: Tensor, positions: Tensor | None = None, attend: Attend | AttendProjected | None = None
    ) -> Tensor:
        """What the head sees, (B, T, W), for callers that need the logits of some places only.

        tokens (B, T) int64; positions (B, T) int64, below the context, 0, 1, 2 … without; `attend` is causal attention
        within each row without.
        """
        return self.hidden_of(self.embedding(tokens), positions, attend)

    def hidden_of(
        self, embedded: Tensor, positions: Tensor | None = None, attend: Attend | AttendProjected | None = None
    ) -> Tensor:
        """`hidden` of tokens that are embedded already, (B, T, W): what explanations of an answer start from."""
        if positions is None:
            positions = torch.arange(embedded.shape[1], device=embedded.device).unsqueeze(0)
        if attend is None:
            attend = CausalAttention(dropout=self.config.dropout if self.training else 0.0)
        hidden = embedded
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        turns = self.rotary is not None and not isinstance(attend, AttendProjected)
        angles = self.rotary.at(positions) if self.rotary is not None and turns else None
        hidden = self.dropout(hidden)
        for block in self.blocks:
            hidden = block(hidden, angles, attend)
        normalised: Tensor = self.norm(hidden)
        return normalised

    def _initialise(self) -> None:
        into_stream = INITIAL_DEVIATION / math.sqrt(2 * self.config.layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                inward = name.endswith(("attention.merge", "feed_forward.contract"))
                nn.init.normal_(module.weight, std=into_stream if inward else INITIAL_DEVIATION)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=INITIAL_DEVIATION)


def _norm(config: DecoderConfig) -> nn.Module:
    if config.family == "gpt2":
        return nn.LayerNorm(config.width, eps=config.norm_epsilon)
    return nn.RMSNorm(config.width, eps=config.norm_epsilon)


def _without_head(_module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    state.pop(f"{prefix}head.weight", None)


def _head_is_tied(_module: nn.Module, incompatible: Any) -> None:
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if not name.endswith("head.weight")]
