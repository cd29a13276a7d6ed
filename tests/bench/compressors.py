"""What others need for a text: bits for each byte by gzip, xz and an n-gram model, given the text that came before.

The compressors are charged what the held-out text adds to the size of the training text: they have seen it too, as far
back as their window reaches.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections import defaultdict


def uniform() -> float:
    """Every byte as probable as any other."""
    return 8.0


def gzip_bits(train: bytes, held_out: bytes) -> float:
    """gzip -9; its window is 32 KiB."""
    return 8 * (len(gzip.compress(train + held_out, 9)) - len(gzip.compress(train, 9))) / len(held_out)


def xz_bits(train: bytes, held_out: bytes) -> float:
    """xz -9e; its window holds all of it."""
    preset = 9 | lzma.PRESET_EXTREME
    sizes = [len(lzma.compress(text, preset=preset)) for text in (train + held_out, train)]
    return 8 * (sizes[0] - sizes[1]) / len(held_out)


def ngram_bits(train: bytes, held_out: bytes, order: int = 5) -> float:
    """A model of bytes that looks `order` - 1 back, shorter contexts mixed in (Witten and Bell 1991)."""
    counts: list[dict[bytes, dict[int, int]]] = [defaultdict(dict) for _ in range(order)]
    for place in range(len(train)):
        for length in range(min(order, place + 1)):
            following = counts[length][train[place - length : place]]
            following[train[place]] = following.get(train[place], 0) + 1
    totals = [{context: sum(seen.values()) for context, seen in level.items()} for level in counts]
    bits = 0.0
    for place, byte in enumerate(held_out):
        probability = 1 / 256
        for length in range(min(order, place + 1)):
            context = held_out[place - length : place]
            seen = counts[length].get(context)
            if seen is None:
                break
            total = totals[length][context]
            probability = (seen.get(byte, 0) + len(seen) * probability) / (total + len(seen))
        bits -= math.log2(probability)
    return bits / len(held_out)
