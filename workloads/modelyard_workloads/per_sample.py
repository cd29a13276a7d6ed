"""Whether the gradients of single samples, which differential privacy needs, fit into memory. Pure."""

from __future__ import annotations

_BYTES = 2 << 30  # for the gradients of the samples that are computed at once


def too_large(values: int, *, batch_size: int, accumulation_steps: int, gradient_for: str, instead: str) -> str | None:
    """What to write instead, where the samples of a part of a batch, with a gradient of so many numbers each, do not
    fit; None where they do.
    """
    part = -(-batch_size // accumulation_steps)
    if part * values * 4 <= _BYTES:
        return None
    fits = max(1, _BYTES // (values * 4))
    parts = -(-batch_size // fits)
    return (
        f"with privacy every sample has a gradient for every {gradient_for}: {part * values * 4 / 2**30:.1f} GiB for"
        f" {part} samples; at most {fits} fit: write accumulationSteps: {parts} (or more), or {instead}"
    )
