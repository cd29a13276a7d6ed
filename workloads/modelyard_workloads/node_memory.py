"""Collectives among ranks that are all on one node, through memory that they share.

gloo sends through sockets even what stays on the machine, with a thread of its own that wants a core the ranks compute
on. Here every rank has a block of memory that the others map, and a pipe to each of them on which a byte says "go on".

Every call is a collective: all ranks make the same ones in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from modelyard_workloads import node_blocks
from modelyard_workloads.node_blocks import Block, Pipe

TOGETHER = 32 << 20  # bytes that are added up at a time: more would only take memory
_LONGEST_WAIT = 2**31 - 1  # milliseconds, by poll(2)
_ALIGNMENT = 64  # bytes; of what lies in a block
_LENGTH = torch.int64  # what lies before gathered bytes


class NodeMemory:
    """The blocks of all ranks, and the pipes between this rank and the others."""

    def __init__(self, rank: int, blocks: Sequence[Block], pipes: Sequence[Pipe], *, seconds: float) -> None:
        """`pipes`: to and from every other rank. Waiting for a rank ends with PeerLost after `seconds`."""
        self._rank = rank
        self._blocks = blocks
        self._pipes = pipes
        self._milliseconds = min(round(1000 * seconds), _LONGEST_WAIT)
        self._being_read = False

    @property
    def rank(self) -> int:
        """This rank's number."""
        return self._rank

    @property
    def world_size(self) -> int:
        """How many ranks there are."""
        return len(self._blocks)

    def post(self, sent: Tensor) -> None:
        """Show the others a tensor (n,), which they `collect`; nothing else may be asked for in between."""
        content = sent.view(torch.uint8)
        start = _LENGTH.itemsize
        block = self.claim(start + len(content))
        block[:start].view(_LENGTH).fill_(len(content))
        block[start:].copy_(content)
        self.go_on()

    def collect(self, dtype: torch.dtype) -> list[Tensor]:
        """What every rank posted, in rank order; the lengths may differ."""
        self.wait()
        start = _LENGTH.itemsize
        found = []
        for rank in range(self.world_size):
            length = int(self.shown(rank, start).view(_LENGTH))
            found.append(self.shown(rank, start + length)[start:].clone().view(dtype))
        self.release()
        return found

    def gather(self, sent: Tensor) -> list[Tensor]:
        """The tensors (n,) of all ranks, in rank order; the lengths may differ."""
        self.post(sent)
        return self.collect(sent.dtype)

    def add(self, values: Tensor) -> None:
        """Element-wise sum over the ranks, in place."""
        flat = values.contiguous().view(-1)
        sums = Sums(self)
        sums.put(flat)
        sums.make()
        if flat.data_ptr() != values.data_ptr():
            values.copy_(flat.view_as(values))

    def close(self) -> None:
        """Let go of everything."""
        for block in self._blocks:
            block.close()
        for pipe in self._pipes:
            pipe.close()

    # The steps of which collectives are made: claim, write, go_on; wait, read, release.

    def claim(self, size: int) -> Tensor:
        """The first `size` bytes of this rank's block, once the others have read what was there."""
        if self._being_read:
            self.wait()
            self._being_read = False
        return self._blocks[self._rank].bytes(size)

    def shown(self, rank: int, size: int) -> Tensor:
        """The first `size` bytes of a rank's block, which has as many."""
        return self._blocks[rank].bytes(size)

    def go_on(self) -> None:
        """Tell the others that this rank is as far as it said it would be."""
        for pipe in self._pipes:
            pipe.say()

    def wait(self) -> None:
        """Wait until every other rank said so. Raises PeerLost."""
        for pipe in self._pipes:
            pipe.hear(self._milliseconds)

    def release(self) -> None:
        """Tell the others that this rank has read what they show; the next `claim` waits until they all have."""
        self._being_read = True
        self.go_on()


class Sums:
    """Sums over the ranks, made in place of tensors that come one after the other. Each rank adds up one part of every
    tensor and shows it to the others, so that all have the same sum to the last bit.
    """

    def __init__(self, memory: NodeMemory, *, average: bool = False) -> None:
        self._memory = memory
        self._divisor = memory.world_size if average else 1
        self._tensors: list[tuple[int, Tensor]] = []  # where it is in the blocks, and itself
        self._end = 0

    def put(self, flat: Tensor) -> None:
        """One more tensor (n,); all ranks have the same dtype and n. What is much is added up at once."""
        for piece in torch.split(flat, TOGETHER // flat.element_size()):
            start = -(-self._end // _ALIGNMENT) * _ALIGNMENT
            self._end = start + piece.nbytes
            # The block grows with the first tensors; what was copied into it stays.
            block = self._memory.claim(self._end)
            for rank, (first, last) in enumerate(_parts(len(piece), self._memory.world_size)):
                if rank != self._memory.rank:
                    _at(block, start, piece)[first:last].copy_(piece[first:last])
            self._tensors.append((start, piece))
            if self._end >= TOGETHER:
                self.make()

    def make(self) -> None:
        """Add up what was put."""
        if not self._tensors:
            return
        memory, size = self._memory, self._memory.world_size
        others = [rank for rank in range(size) if rank != memory.rank]
        memory.go_on()
        memory.wait()
        blocks = [memory.shown(rank, self._end) for rank in range(size)]
        for start, tensor in self._tensors:
            first, last = _parts(len(tensor), size)[memory.rank]
            part = tensor[first:last]
            for rank in others:
                part += _at(blocks[rank], start, tensor)[first:last]
            if self._divisor > 1:
                part /= self._divisor
            _at(blocks[memory.rank], start, tensor)[first:last].copy_(part)
        memory.go_on()
        memory.wait()
        for start, tensor in self._tensors:
            parts = _parts(len(tensor), size)
            for rank in others:
                first, last = parts[rank]
                tensor[first:last].copy_(_at(blocks[rank], start, tensor)[first:last])
        memory.release()
        self._tensors, self._end = [], 0


def _parts(length: int, count: int) -> list[tuple[int, int]]:
    """Where each of `count` parts of about the same length begins and ends."""
    return list(pairwise(length * number // count for number in range(count + 1)))


def _at(block: Tensor, start: int, like: Tensor) -> Tensor:
    """The part of a block where a tensor lies."""
    return block[start : start + like.nbytes].view(like.dtype)


_of_group: NodeMemory | None = None


def of_group() -> NodeMemory | None:
    """That of the process group, if its ranks have `met` in one."""
    return _of_group


def meet(*, seconds: float) -> NodeMemory | None:
    """Make one for the ranks of the process group, which are on one node. None, on all of them, where the system does
    not allow it: other than on Linux, or for processes that may not see each other.
    """
    global _of_group
    found = node_blocks.meet()
    _of_group = NodeMemory(dist.get_rank(), *found, seconds=seconds) if found else None
    return _of_group


def part() -> None:
    """Let go of the process group's, if there is one."""
    global _of_group
    if _of_group is not None:
        _of_group.close()
        _of_group = None
