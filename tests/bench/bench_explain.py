"""What explanations cost predictions: `make bench-explain`. Latency beside a client that always explains, and without.

Prints JSON lines {"bench", "unit", "ours", "peer", "theirs", "ratio"}: ours is the latency beside explanations, theirs
that of the same server a moment before and after without any; a ratio of 1 says that they cost nothing. Server, the
process that explains and the load generator share the cores, in turns.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
from bench.pinned import load, server, wait_for_answers
from bench.v2_requests import binary_request
from ports import free_port
from servers.artifacts import image_artifact
from servers.process import serve_config

SIZE = 32
CONNECTIONS = 2
PATH = "/v2/models/digits"


def image(rows: int) -> np.ndarray:
    """Noise, FP32 [rows, 3, SIZE, SIZE]."""
    return np.random.default_rng(0).random((rows, 3, SIZE, SIZE), dtype=np.float32)


@contextmanager
def explaining(port: int) -> Iterator[list[int]]:
    """A client that asks for one explanation after the other; how many there were is the list's only number."""
    stop, count = threading.Event(), [0]
    body = json.dumps({"instances": image(1).tolist()})

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while not stop.is_set():
            connection.request("POST", "/v1/models/digits:explain", body)
            reply = connection.getresponse()
            reply.read()
            count[0] += reply.status == 200

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield count
    finally:
        stop.set()
        client.join(120)


def main() -> None:
    """Rounds of both, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        artifact = image_artifact(Path(scratch), name="resnet18", channels=3, size=SIZE)
        port = free_port()
        config = serve_config(artifact, explain={"steps": 50}, server={"host": "127.0.0.1", "port": port})
        command = [sys.executable, "-m", "modelyard_workloads.serve"]
        environment = {"MODELYARD_CONFIG": json.dumps(config)}
        request = binary_request(f"{PATH}/infer", image(1), "image")
        with server(command, port, Path(scratch) / "log", environment, core=None) as session:
            wait_for_answers(port, request)
            compare(port, session, request, asked.seconds, asked.rounds)


def compare(port: int, session: int, request: bytes, seconds: float, rounds: int) -> None:
    """Print a line for the median and one for the slowest hundredth of the requests."""
    how = (CONNECTIONS, seconds)
    with explaining(port):  # the process starts
        load(port, session, (CONNECTIONS, 10.0), request)
    without, beside, explained = [], [], 0
    for _ in range(rounds):
        without.append(load(port, session, how, request))
        with explaining(port) as count:
            beside.append(load(port, session, how, request))
        explained += count[0]
    for name in ("p50", "p99"):
        ours, theirs = (median(figures[name] for figures in turns) for turns in (beside, without))
        line = {"bench": f"explain-predict-{name}", "unit": "ms", "ours": round(ours, 2), "peer": "no explanations"}
        print(
            json.dumps({**line, "theirs": round(theirs, 2), "ratio": round(theirs / ours, 2), "explained": explained})
        )


if __name__ == "__main__":
    main()
