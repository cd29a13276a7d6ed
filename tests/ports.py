"""Ports for what a test or a benchmark starts."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

_CHANCE = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A port on which nobody listens now, nor on the next one, where launchers meet (see peers.py); never the same one
    twice. At random, and below the ports that connections get: what others open before it is used does not take it.
    """
    while True:
        port = _CHANCE.randrange(15_000, 29_000)
        if {port, port + 1} & _given:
            continue
        with suppress(OSError), socket.socket() as here, socket.socket() as next_to_it:
            here.bind(("127.0.0.1", port))
            next_to_it.bind(("127.0.0.1", port + 1))
            _given.update((port, port + 1))
            return port
