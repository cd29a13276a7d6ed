"""What others need for a text: bits for each byte by gzip, xz and an n-gram model: `make bench-compressors`.

Compressors are asked twice: for the held-out text alone, as people compress, and for what it adds to the size of the
training text, which they have seen then too, as far back as their window reaches. A JSON line for each.
"""

from __future__ import annotations

import gzip
import json
import lzma
import math
import sys
from collections import defaultdict

from modelyard_workloads.data.corpus import is_held_out, python_documents
from modelyard_workloads.parameters.causal_lm import CausalLmParameters


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


def main() -> None:
    """On `example://python-docs`, divided as causal-lm divides it."""
    fraction = CausalLmParameters().evaluation_fraction
    train, held_out = (
        "\n".join(d.text for d in python_documents() if is_held_out(d.name, fraction) == held).encode()
        for held in (False, True)
    )
    for name, before in (("alone", b""), ("after the training text", train)):
        for compressor, bits in (("gzip -9", gzip_bits), ("xz -9e", xz_bits)):
            _tell(f"{compressor}, {name}", bits(before, held_out))
    _tell("5-gram model of the training text's bytes", ngram_bits(train, held_out))


def _tell(by: str, bits: float) -> None:
    sys.stdout.write(
        json.dumps({"bench": "held-out text", "unit": "bits/byte", "by": by, "bits": round(bits, 3)}) + "\n"
    )


if __name__ == "__main__":
    main()
