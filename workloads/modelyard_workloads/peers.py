"""The launchers of a gang among themselves: node 0 asks all others for the stacks of their ranks.

Only rank 0's pod has the output volume, so what is to be kept goes to it. Node 0 listens beside the ranks' own
meeting point, at MASTER_PORT + 1; the others connect, and answer with one JSON line what they are asked with one:

    -> {"node": 1, "ranks": [2, 3]}        when connected
    <- {"request": "dumpStacks", "id": 1}
    -> {"id": 1, "stacks": {"2": "…", "3": "…"}}

The same trust as between the ranks: whoever reaches these ports is in the gang. Sizes are bounded all the same.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

TIMEOUT_SECONDS = 10.0
_RETRY_SECONDS = 2.0
_LONGEST_LINE = 8 << 20


class PeerServer:
    """Node 0's end."""

    def __init__(self, port: int, ranks_of: dict[int, range]) -> None:
        """`ranks_of`: the global ranks of every other node. A port that is taken is said and not fatal."""
        self._ranks_of = ranks_of
        self._connections: dict[int, socket.socket] = {}
        self._answers: dict[int, dict[int, str]] = {}
        self._request = 0
        self._changed = threading.Condition()
        try:
            self._listener = socket.create_server(("", port), backlog=len(ranks_of), reuse_port=False)
        except OSError as error:
            sys.stderr.write(f"stacks of other nodes cannot be collected on port {port}: {error}\n")
            return
        threading.Thread(target=self._accept, name="peers", daemon=True).start()

    def collect(self, seconds: float = TIMEOUT_SECONDS) -> dict[int, str]:
        """The stacks of all ranks of the other nodes; of a node that does not answer, that it does not."""
        with self._changed:
            self._request += 1
            self._answers = {}
            line = json.dumps({"request": "dumpStacks", "id": self._request}).encode() + b"\n"
            asked = dict(self._connections)
        for connection in asked.values():
            try:
                connection.sendall(line)
            except OSError:
                continue  # its reader notices
        with self._changed:
            self._changed.wait_for(lambda: self._answers.keys() >= asked.keys() & self._connections.keys(), seconds)
            found = dict(self._answers)
        texts: dict[int, str] = {}
        for node, ranks in self._ranks_of.items():
            silent = "its node did not answer" if node in asked else "its node is not connected"
            texts |= found.get(node, {rank: f"rank {rank}: {silent}\n" for rank in ranks})
        return texts

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            connection.settimeout(TIMEOUT_SECONDS)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            threading.Thread(target=self._listen, args=(connection,), name="peer", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        node: int | None = None
        for message in _messages(connection):
            if node is None:
                node = message.get("node")
                if node not in self._ranks_of:
                    break
                with self._changed:
                    self._connections[node] = connection
            else:
                self._answered(node, message)
        connection.close()
        with self._changed:
            if node is not None and self._connections.get(node) is connection:
                del self._connections[node]
            self._changed.notify_all()

    def _answered(self, node: int, message: dict[str, Any]) -> None:
        texts = message.get("stacks")
        with self._changed:
            if message.get("id") == self._request and isinstance(texts, dict):
                self._answers[node] = {rank: str(texts.get(str(rank), "")) for rank in self._ranks_of[node]}
                self._changed.notify_all()


class PeerClient:
    """Another node's end: connects again and again, for as long as the pod lives."""

    def __init__(self, address: tuple[str, int], node: int, dump: Callable[[], dict[int, str]]) -> None:
        self._address = address
        self._node = node
        self._dump = dump
        threading.Thread(target=self._work, name="peers", daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                with socket.create_connection(self._address, timeout=TIMEOUT_SECONDS) as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    connection.sendall(json.dumps({"node": self._node}).encode() + b"\n")
                    for message in _messages(connection):
                        if message.get("request") == "dumpStacks":
                            answer = {"id": message.get("id"), "stacks": self._dump()}
                            connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                pass  # node 0 is not there yet, or not any more
            time.sleep(_RETRY_SECONDS)


def _messages(connection: socket.socket) -> Any:
    """JSON objects, one a line, until the other end is gone or says something else."""
    rest = b""
    while True:
        try:
            piece = connection.recv(1 << 16)
        except TimeoutError:
            continue  # nothing to say is the rule; keep-alive finds a dead peer
        except OSError:
            return
        if not piece or len(rest) > _LONGEST_LINE:
            return
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                return
            if not isinstance(message, dict):
                return
            yield message
