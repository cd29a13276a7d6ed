"""A decoder with the loss of its next tokens, as it is trained.

The logits of all tokens at once are the largest thing in training a small model (8,192 tokens x 50,304 entries in
float32 are 1.6 GB, and several such are needed). So the head and its loss are computed for a few hundred tokens at a
time, loss and gradients together, and no logits are kept. Tokens that are not learned are left out of the head. (The
idea of computing both at once: P.-L. Hsu et al., "Liger Kernel", arXiv 2410.10989.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from modelyard_workloads.data.tokens import IGNORED
from modelyard_workloads.models.decoder import Attend, CausalAttention, Decoder

# Logits of a chunk: few enough for a core's cache, or enough to fill a GPU.
_CHUNK_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 29}


class NextTokenLoss(nn.Module):
    """The sum of the losses of a batch: cross-entropy in nats, in training with label smoothing."""

    def __init__(self, decoder: Decoder, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.decoder = decoder
        self._chunk = ChunkLoss()
        self._smoothing = label_smoothing

    def regions(self) -> Iterable[nn.Module]:
        """See `backward.Regional`."""
        return [*self.decoder.blocks, self._chunk]

    def forward(self, inputs: Tensor, targets: Tensor, documents: Tensor | None = None) -> Tensor:
        """inputs and targets (B, T) int64, targets IGNORED where nothing is learned; documents (B, T) int64 keeps
        attention and positions within each document of a row -> scalar
        """
        positions, attend = self._within(documents)
        hidden = self.decoder.hidden(inputs, positions, attend).flatten(0, 1)
        flat = targets.flatten()
        if documents is not None:  # conversations: most tokens are only read
            learned = flat != IGNORED
            hidden, flat = hidden[learned], flat[learned]
        smoothing = self._smoothing if self.training else 0.0
        loss: Tensor = _HeadAndLoss.apply(hidden, self.decoder.head.weight, flat, smoothing, self._chunk)
        return loss

    def _within(self, documents: Tensor | None) -> tuple[Tensor | None, Attend | None]:
        if documents is None:
            return None, None
        dropout = self.decoder.config.dropout if self.decoder.training else 0.0
        return positions_within(documents), CausalAttention(mask=mask_within(documents), dropout=dropout)


def positions_within(documents: Tensor) -> Tensor:
    """documents (B, T), growing along a row -> (B, T): how far a token is from the beginning of its document"""
    places = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.cat([torch.ones_like(documents[:, :1], dtype=torch.bool), documents.diff(dim=1) != 0], dim=1)
    return places - torch.where(begins, places, 0).cummax(dim=1).values


def mask_within(documents: Tensor) -> Tensor:
    """documents (B, T) -> (B, 1, T, T): True where a token may look, back within its document"""
    same = documents.unsqueeze(2) == documents.unsqueeze(1)
    return same.tril().unsqueeze(1)


class ChunkLoss(nn.Module):
    """The loss of some logits and its slope: without weights, a module so that it can be compiled."""

    def forward(self, logits: Tensor, wanted: Tensor, smoothing: float, learning: bool) -> tuple[Tensor, Tensor | None]:
        """logits (N, V), overwritten; wanted (N, 1) in 0..V-1 -> (sum of losses, scalar float32; its gradients (N, V)
        in the logits' type, None where nothing is learned)
        """
        dtype, vocabulary = logits.dtype, logits.shape[1]
        logits = logits.float()
        spread = _spread(logits)
        expected = logits.gather(1, wanted)
        if smoothing:
            expected = (1 - smoothing) * expected + smoothing * logits.mean(dim=1, keepdim=True)
        loss = (spread - expected).sum()
        if not learning:
            return loss, None
        slope = logits.sub_(spread).exp_()  # the probabilities
        if smoothing:
            slope -= smoothing / vocabulary
        if logits.is_cuda:  # compiled: one pass over all, and nothing is scattered
            places = torch.arange(vocabulary, device=logits.device, dtype=torch.int32)
            slope -= (1.0 - smoothing) * (places == wanted.int())
        else:
            slope.scatter_add_(1, wanted, torch.full_like(expected, smoothing - 1.0))
        return loss, slope.to(dtype)


def _spread(logits: Tensor) -> Tensor:
    """The logarithm of the sum of exponentials, (N, V) -> (N, 1)."""
    if not logits.is_cuda:
        return logits.logsumexp(dim=1, keepdim=True)
    largest = logits.amax(dim=1, keepdim=True)  # in this form the compiler finds both in one pass over the logits
    return (logits - largest).exp().sum(dim=1, keepdim=True).log() + largest


class _HeadAndLoss(torch.autograd.Function):
    """Sum of cross-entropies of `hidden @ weight.T`, chunk by chunk."""

    @staticmethod
    def forward(
        context: Any, hidden: Tensor, weight: Tensor, targets: Tensor, smoothing: float, chunk: ChunkLoss
    ) -> Tensor:
        """hidden (N, W), weight (V, W), targets (N,) in 0..V-1 -> scalar float32"""
        dtype = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
        with torch.autocast(hidden.device.type, enabled=False):
            return _chunked(context, hidden, weight, targets, smoothing, dtype or hidden.dtype, chunk)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight = context.saved_tensors
        return hidden * gradient, weight * gradient, None, None, None


def _chunked(
    context: Any,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    dtype: torch.dtype,
    chunk: ChunkLoss,
) -> Tensor:
    rows, working = _chunk_rows(hidden.device, weight.shape[0]), weight.to(dtype)
    learning = hidden.requires_grad or weight.requires_grad
    total = torch.zeros((), dtype=torch.float32, device=hidden.device)
    to_hidden = torch.empty_like(hidden) if learning else hidden.new_empty(0)
    to_weight = torch.zeros_like(weight, dtype=torch.float32) if learning else hidden.new_empty(0)
    for start in range(0, hidden.shape[0], rows):
        part, wanted = hidden[start : start + rows].to(dtype), targets[start : start + rows].unsqueeze(1)
        loss, slope = chunk(part @ working.T, wanted, smoothing, learning)
        total += loss
        if slope is not None:
            to_hidden[start : start + rows] = slope @ working
            if dtype == torch.float32:
                to_weight.addmm_(slope.T, part)
            else:
                to_weight += slope.T @ part
    context.save_for_backward(to_hidden, to_weight)
    return total


def _chunk_rows(device: torch.device, vocabulary: int) -> int:
    """Tokens of a chunk; on a GPU a power of two, as batches mostly are: then all chunks are of one size."""
    rows = max(16, _CHUNK_ELEMENTS.get(device.type, 1 << 24) // vocabulary)
    return 1 << (rows.bit_length() - 1) if device.type == "cuda" else rows
