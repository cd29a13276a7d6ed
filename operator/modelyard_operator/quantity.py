"""Kubernetes quantities: `500m`, `2`, `4Gi`, `1e3` as exact numbers."""

from __future__ import annotations

import re
from decimal import Decimal

UNSIGNED = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?"
PATTERN = UNSIGNED
"""A quantity that can be asked for: none of the fields of the API takes a negative one."""

_BINARY = {suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
}


def amount(text: str) -> Decimal:
    """The number that a quantity stands for: bytes, cores, pieces. Raises ValueError for anything else."""
    found = re.fullmatch(PATTERN, text)
    if not found:
        raise ValueError(f"{text!r} is not a quantity")
    number, suffix = Decimal(found[1]), found[3] or ""
    if suffix[:1] in ("e", "E") and len(suffix) > 1 and suffix != "Ei":
        return number * Decimal(10) ** int(suffix[1:])
    return number * (_BINARY.get(suffix) or _DECIMAL[suffix])


def canonical(text: str) -> str:
    """The quantity as the API server writes it back: whole numbers with the largest suffix that keeps them whole.

    `1000m` becomes `1`, `1.5Gi` becomes `1536Mi`, `2048Mi` becomes `2Gi`. What is compared with an observed object
    must be written so, or it would seem to differ for ever.
    """
    number = amount(text)
    table = _BINARY if text.endswith("i") else _DECIMAL
    for suffix, size in sorted(table.items(), key=lambda item: item[1], reverse=True):
        if number and number % size == 0:
            return f"{int(number / size)}{suffix}"
    return str(int(number)) if number == int(number) else f"{-int(-number * 1000 // 1)}m"
