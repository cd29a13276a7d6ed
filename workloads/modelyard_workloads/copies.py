"""Copies of many tensors within the memory of the host, by all threads that PyTorch may use.

PyTorch's own copy shares every tensor out and waits for the slowest thread each time, which on a machine that others
use too takes longer than one thread alone. Here a thread takes the next piece when it is done with its last: nobody
waits but at the end, and a thread that is held up is left behind with one piece.
"""

from __future__ import annotations

import threading
from collections import deque

import numpy as np
import torch
from torch import Tensor

PIECE = 16 << 20  # bytes; between two pieces a thread has to get the interpreter's lock
_MOST_THREADS = 8  # a few fill the memory's bandwidth

Piece = tuple["np.ndarray[tuple[int], np.dtype[np.uint8]]", "np.ndarray[tuple[int], np.dtype[np.uint8]]"]
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


class Copies:
    """Copies that are to be made."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque()

    def add(self, target: Tensor, source: Tensor) -> None:
        """Copy a tensor into one of its shape and dtype. What is not one block of host memory, as the target is, is
        copied at once, from the memory of a GPU without waiting for it.
        """
        if source.is_cpu and source.stride() == target.stride() and _is_one_block(source):
            to, of = _bytes(target), _bytes(source)
            self._pieces.extend((to[at : at + PIECE], of[at : at + PIECE]) for at in range(0, len(of), PIECE))
        else:
            target.copy_(source, non_blocking=True)

    def make(self) -> None:
        """Make them; they are made when it returns."""
        count = min(torch.get_num_threads(), _MOST_THREADS, len(self._pieces))
        others = [threading.Thread(target=self._work, name="copies") for _ in range(count - 1)]
        for thread in others:
            thread.start()
        self._work()
        for thread in others:
            thread.join()

    def _work(self) -> None:
        while True:
            try:
                target, source = self._pieces.popleft()
            except IndexError:
                return
            np.copyto(target, source)  # without the interpreter's lock


def _is_one_block(tensor: Tensor) -> bool:
    channels_last = _CHANNELS_LAST.get(tensor.ndim)
    return tensor.is_contiguous() or (channels_last is not None and tensor.is_contiguous(memory_format=channels_last))


def _bytes(tensor: Tensor) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The memory of a tensor that is one block."""
    flat: np.ndarray[tuple[int], np.dtype[np.uint8]] = (
        tensor.detach().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()
    )
    return flat
