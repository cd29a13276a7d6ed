"""A line through points, in Braille dots (2 x 4 to a character), with axes. No colours, any terminal width."""

from collections.abc import Sequence
from itertools import pairwise

Point = tuple[float, float]
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of a Braille character
_BLANK = 0x2800


def line_plot(points: Sequence[Point], width: int, height: int, right: float | None = None) -> list[str]:
    """`width` x `height` characters, axes and labels included; x from 0 to `right`, y from 0 to above the largest.

    Empty without points.
    """
    if not points:
        return []
    top = _nice_top(max(y for _, y in points))
    right = max(right or 0.0, max(x for x, _ in points), 1.0)
    labels = {0: _number(top), (height - 3) // 2: _number(top / 2), height - 3: "0"}
    margin = max(len(label) for label in labels.values())
    columns, rows = max(8, width - margin - 1), height - 2
    dots = _draw([(x / right, y / top) for x, y in points], columns * 2, rows * 4)
    lines = []
    for row in range(rows):
        text = "".join(chr(_BLANK + _cell(dots, column, row)) for column in range(columns))
        edge = "┤" if row in labels else "│"
        lines.append(f"{labels.get(row, ''):>{margin}}{edge}{text.replace(chr(_BLANK), ' ').rstrip()}")
    lines.append(" " * margin + "└" + "─" * columns)
    middle, end = _number(right / 2), _number(right)
    gap = columns - len(end) - 1
    lines.append(" " * (margin + 1) + f"0{middle:^{gap}}{end}")
    return lines


def _draw(points: Sequence[Point], width: int, height: int) -> set[tuple[int, int]]:
    """Dots (x, y) from the top left of the line through points in 0..1, y upwards."""
    scaled = [(round(x * (width - 1)), round((1 - y) * (height - 1))) for x, y in sorted(points)]
    dots = set(scaled)
    for (x0, y0), (x1, y1) in pairwise(scaled):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        dots |= {(x0 + round((x1 - x0) * k / steps), y0 + round((y1 - y0) * k / steps)) for k in range(steps + 1)}
    return dots


def _cell(dots: set[tuple[int, int]], column: int, row: int) -> int:
    return sum(
        bit
        for y, bits in enumerate(_BITS)
        for x, bit in enumerate(bits)
        if (column * 2 + x, row * 4 + y) in dots
    )  # fmt: skip


def _nice_top(largest: float) -> float:
    """The smallest of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10 times a power of ten that is not below."""
    power = 1e-6
    while largest > 10 * power:
        power *= 10
    steps = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return next((step * power for step in steps if step * power >= largest * 0.999999), 10 * power)


def _number(value: float) -> str:
    return f"{value:.3g}"
