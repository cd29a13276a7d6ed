"""The blocks of the key/value cache: who has which, which hold a prefix worth keeping, which one comes next.

A full block whose content is known by a digest outlives its sequence: another one that begins with the same tokens
takes it over (a reference count says by how many it is used). Free blocks are taken empty ones first, then the least
recently used.

Blocks of one sequence lie side by side where that is possible: attention then reads them as they are, without a copy
(a third to two thirds of the time of attention on a CPU). A sequence gets a window of free blocks as long as it may
grow; the window is a wish that others respect as long as there is room elsewhere, not a reservation: nothing is held
back from a sequence that needs a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

_WISHED = 1e15  # taken after everything that no one wishes for
_LONGEST_WINDOW = 256  # blocks


@dataclass(slots=True)
class Table:
    """The blocks of one sequence in the order of its tokens, and the windows it wishes for."""

    blocks: list[int] = field(default_factory=list)
    windows: list[tuple[int, int]] = field(default_factory=list)  # start, length

    @property
    def side_by_side(self) -> bool:
        """Are all blocks neighbours, in order?"""
        blocks = self.blocks
        return not blocks or (
            blocks[-1] - blocks[0] == len(blocks) - 1 and blocks == list(range(blocks[0], blocks[-1] + 1))
        )


class BlockPool:
    """`count` blocks of `size` tokens each; `reuse`: known content is kept and found again."""

    def __init__(self, count: int, size: int, *, reuse: bool = True) -> None:
        self.count = count
        self.size = size
        self.available = count  # blocks that a sequence could get, those with kept content too
        self._reuse = reuse
        self._references = [0] * count
        self._digests: list[bytes | None] = [None] * count
        self._block_of: dict[bytes, int] = {}
        # When a block became free: 0 = empty, infinity = in use.
        self._freed: npt.NDArray[np.float64] = np.zeros(count)
        self._wishes: npt.NDArray[np.int32] = np.zeros(count, dtype=np.int32)
        self._clock = 0.0

    @property
    def used(self) -> float:
        """Share of the blocks that sequences have, 0 to 1."""
        return 1 - self.available / self.count

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.size)

    def known(self, digests: Iterable[bytes]) -> list[int]:
        """The blocks with this content, up to the first that is not there."""
        found: list[int] = []
        for digest in digests:
            block = self._block_of.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def unused_among(self, blocks: Iterable[int]) -> int:
        """How many of these blocks no sequence uses: taking them over makes fewer available."""
        return sum(not self._references[block] for block in blocks)

    def take_over(self, table: Table, blocks: Iterable[int]) -> None:
        """Begin an empty table with blocks that are known."""
        for block in blocks:
            if not self._references[block]:
                self.available -= 1
                self._freed[block] = np.inf
            self._references[block] += 1
            table.blocks.append(block)

    def extend(self, table: Table, count: int, expected: int) -> bool:
        """Let the table have `count` blocks, of `expected` in the end; False, and nothing happens, without room."""
        missing = count - len(table.blocks)
        if missing > self.available:
            return False
        for _ in range(missing):
            block = self._next(table, expected)
            self._claim(block)
            table.blocks.append(block)
        return True

    def remember(self, block: int, digest: bytes) -> None:
        """The block is full and its content has this digest."""
        if self._reuse and self._digests[block] is None and digest not in self._block_of:
            self._digests[block] = digest
            self._block_of[digest] = block

    def release(self, table: Table) -> None:
        """The sequence needs its blocks no more. Its last ones are forgotten first: beginnings are worth more."""
        for block in reversed(table.blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self.available += 1
                self._clock += 1
                self._freed[block] = self._clock if self._digests[block] is not None else 0
        for start, length in table.windows:
            self._wishes[start : start + length] -= 1
        table.blocks.clear()
        table.windows.clear()

    def check(self, tables: Iterable[Table]) -> None:
        """Assert that these tables, and nothing else, account for every block in use."""
        counted = [0] * self.count
        wished = np.zeros(self.count, dtype=np.int32)
        for table in tables:
            assert len(set(table.blocks)) == len(table.blocks), "a table has a block twice"
            for block in table.blocks:
                counted[block] += 1
            for start, length in table.windows:
                wished[start : start + length] += 1
        assert counted == self._references, "reference counts are not those of the tables"
        assert (wished == self._wishes).all(), "wishes are not those of the tables"
        assert self.available == counted.count(0), "the number of available blocks is wrong"
        assert all((self._freed[b] == np.inf) == bool(n) for b, n in enumerate(counted)), "times are wrong"
        assert all(self._digests[block] == digest for digest, block in self._block_of.items()), "digests are wrong"
        assert sum(d is not None for d in self._digests) == len(self._block_of), "a digest is lost"

    def _claim(self, block: int) -> None:
        digest = self._digests[block]
        if digest is not None:
            del self._block_of[digest]
            self._digests[block] = None
        self._references[block] = 1
        self._freed[block] = np.inf
        self.available -= 1

    def _next(self, table: Table, expected: int) -> int:
        if table.windows and table.blocks:
            start, length = table.windows[-1]
            after = table.blocks[-1] + 1
            if start <= after < start + length and not self._references[after]:
                return after
        start, length = self._window(max(1, min(expected - len(table.blocks), _LONGEST_WINDOW)))
        self._wishes[start : start + length] += 1
        table.windows.append((start, length))
        return start

    def _window(self, length: int) -> tuple[int, int]:
        """Start and length of the free window that is missed least; shorter where there is none of this length."""
        cost = self._freed + _WISHED * (self._wishes > 0)
        length = min(length, self.count)
        while True:
            costs = _sliding_maximum(cost, length)
            start = int(costs.argmin())
            if costs[start] < np.inf or length == 1:
                return start, length
            length = (length + 1) // 2


def _sliding_maximum(values: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.float64]:
    """Maximum of every window of `length` neighbours, by doubling."""
    width = 1
    while 2 * width <= length:
        values = np.maximum(values[:-width], values[width:])
        width *= 2
    rest = length - width
    return np.maximum(values[:-rest], values[rest:]) if rest else values
