"""A block of memory for each rank of one node, which the others map, and pipes between the ranks.

The blocks are anonymous (memfd_create) and found through /proc, like the pipes, so neither /dev/shm nor a file system
is asked for room, and nothing listens. A rank that ends closes its pipes, which the others notice at once.
"""

from __future__ import annotations

import mmap
import os
import secrets
import select
import sys
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from modelyard_workloads.exits import PeerLost

_NAME = "modelyard-ranks"  # of the blocks, in /proc/*/maps
_MARK_BYTES = 8  # a number in a new block by which it is known


class Block:
    """The memory of one rank, which grows when it needs more; the others map it anew when they do."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mapped = torch.empty(0, dtype=torch.uint8)

    def bytes(self, size: int) -> Tensor:
        """The first `size` bytes (size,)."""
        if size > len(self._mapped):
            if size > os.fstat(self._descriptor).st_size:
                os.ftruncate(self._descriptor, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE)
            self._mapped = torch.frombuffer(mmap.mmap(self._descriptor, 0), dtype=torch.uint8)
        return self._mapped[:size]

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)
        self._mapped = torch.empty(0, dtype=torch.uint8)


class Pipe:
    """Between this rank and another one."""

    def __init__(self, peer: int, incoming: int, outgoing: int) -> None:
        self._peer = peer
        self._incoming = incoming
        self._outgoing = outgoing
        self._poll = select.poll()
        self._poll.register(incoming, select.POLLIN)

    def say(self) -> None:
        """Go on."""
        with suppress(
            BrokenPipeError
        ):  # who left after the last collective misses nothing; `hear` tells who did before
            os.write(self._outgoing, b"\0")

    def hear(self, milliseconds: int) -> None:
        """Wait until the other says so. Raises PeerLost when it has ended, or says nothing for as long."""
        if not self._poll.poll(milliseconds):
            raise PeerLost(f"rank {self._peer} did not come to the same point within {milliseconds / 1000:g} s")
        if not os.read(self._incoming, 1):
            raise PeerLost(f"rank {self._peer} is gone")

    def close(self) -> None:
        """Close both ends."""
        os.close(self._incoming)
        os.close(self._outgoing)


def meet() -> tuple[list[Block], list[Pipe]] | None:
    """The blocks of all ranks of the process group, in rank order, and the pipes to all others. None, on all of them,
    where the system does not allow it: other than on Linux, or for processes that may not see each other.
    """
    rank, world_size = dist.get_rank(), dist.get_world_size()
    offer = _Offer(world_size)
    offers = [torch.zeros(3 + world_size, dtype=torch.int64) for _ in range(world_size)]
    dist.all_gather(offers, torch.tensor(offer.numbers))
    files = [found for theirs in offers if (found := _open(theirs.tolist(), rank))]
    missing = torch.tensor([world_size - len(files)])
    dist.all_reduce(missing)  # from here on everybody has opened what it wanted
    offer.withdraw()
    if missing:
        for number in (*offer.incoming, *(number for pair in files for number in pair)):
            os.close(number)
        return None
    pipes = []
    for peer, (incoming, (_, outgoing)) in enumerate(zip(offer.incoming, files, strict=True)):
        if peer == rank:  # nobody talks to itself
            os.close(incoming)
            os.close(outgoing)
        else:
            pipes.append(Pipe(peer, incoming, outgoing))
    return [Block(block) for block, _ in files], pipes


class _Offer:
    """A rank's new block, and for each rank a pipe, for the others to open."""

    def __init__(self, world_size: int) -> None:
        self.incoming: list[int] = []  # the ends that this rank reads from
        self._opened: list[int] = []  # the block, and the ends that the others write to
        mark = secrets.randbits(8 * _MARK_BYTES - 1)
        self.numbers = [0] * (3 + world_size)
        with suppress(OSError, AttributeError):  # AttributeError: a system without memfd_create
            self._opened.append(os.memfd_create(_NAME))
            os.write(self._opened[0], mark.to_bytes(_MARK_BYTES, sys.byteorder))
            for _ in range(world_size):
                incoming, outgoing = os.pipe()
                self.incoming.append(incoming)
                self._opened.append(outgoing)
            self.numbers = [os.getpid(), mark, *self._opened]

    def withdraw(self) -> None:
        """Close what the others have opened by now; a pipe ends when its last writer ends."""
        for number in self._opened:
            os.close(number)


def _open(offer: list[int], rank: int) -> tuple[int, int] | None:
    """A rank's block and the pipe to it, if the process is the one that offered them."""
    process, mark, block, *pipes = offer
    files = Path(f"/proc/{process}/fd")
    opened: list[int] = []
    with suppress(OSError):
        # In another namespace the number of the process is another one's.
        if process and str((files / str(block)).readlink()).startswith(f"/memfd:{_NAME}"):
            opened.append(os.open(files / str(block), os.O_RDWR | os.O_CLOEXEC))
            if os.pread(opened[0], _MARK_BYTES, 0) == mark.to_bytes(_MARK_BYTES, sys.byteorder):
                opened.append(os.open(files / str(pipes[rank]), os.O_WRONLY | os.O_CLOEXEC))
                return opened[0], opened[1]
    for number in opened:
        os.close(number)
    return None
