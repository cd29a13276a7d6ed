"""What the router adds to a request: a server asked directly and through the router, in turns, as JSON lines.

`PYTHONPATH=tests:operator python tests/bench/bench_router.py --seconds 3`. The server is the bundled one around a
model that costs nothing; server, router and load generator share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from bench.pinned import cpu_seconds

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATHS = os.pathsep.join(str(ROOT / part) for part in ("tests", "workloads", "operator"))
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 64}]}).encode()
REQUEST = (
    b"POST /v2/models/rows/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    + f"Content-Length: {len(BODY)}\r\n\r\n".encode()
    + BODY
)
_PORT = re.compile(r"listening on port (\d+)")


@contextmanager
def server() -> Iterator[int]:
    """The bundled server; its port."""
    command = [sys.executable, str(HERE / "trivial_server.py")]
    with _process(command, {}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


@contextmanager
def router(port: int, log: Path) -> Iterator[tuple[int, int]]:
    """A router before it; its port and its session."""
    config = {"backends": [{"revision": "r", "host": "127.0.0.1", "port": port, "percent": 100}]}
    told = {**config, "host": "127.0.0.1", "port": 0, "adminPort": 0, "drainSeconds": 0}
    command = [sys.executable, "-m", "modelyard_operator.router"]
    with log.open("w") as out, _process(command, {"MODELYARD_ROUTER": json.dumps(told)}, stderr=out) as process:
        due = time.monotonic() + 30
        while not (found := _PORT.search(log.read_text())):
            assert time.monotonic() < due, log.read_text()
            time.sleep(0.05)
        yield int(found[1]), process.pid


@contextmanager
def _process(command: list[str], extra: dict[str, str], **how: Any) -> Iterator[subprocess.Popen[Any]]:
    environment = {**os.environ, "PYTHONPATH": PATHS, **extra}
    process = subprocess.Popen(command, env=environment, start_new_session=True, **how)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def load(port: int, connections: int, seconds: float) -> dict[str, float]:
    command = [sys.executable, str(HERE / "load.py"), str(port), str(connections), str(seconds)]
    done = subprocess.run(command, input=REQUEST, capture_output=True, timeout=seconds * 3 + 60, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    assert not answer["errors"], answer
    return answer


def load_through(port: int, session: int, connections: int, seconds: float) -> dict[str, float]:
    """The same, and CPU microseconds of the router for each request."""
    before = cpu_seconds(session)
    answer = load(port, connections, seconds)
    return {**answer, "cpu_us": 1e6 * (cpu_seconds(session) - before) / answer["all_requests"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", type=Path, default=Path("/tmp/modelyard-bench-router.log"))
    asked = parser.parse_args()
    with server() as direct, router(direct, asked.log) as (routed, session):
        for connections in (1, 8, 32):
            rounds = [
                (
                    load(direct, connections, asked.seconds),
                    load_through(routed, session, connections, asked.seconds),
                )
                for _ in range(asked.rounds)
            ]
            for name in ("p50", "p99"):
                without, through = (median(pair[side][name] for pair in rounds) for side in (0, 1))
                line = {"bench": f"router {name}, {connections} connections", "unit": "ms", "direct": round(without, 3)}
                print(json.dumps({**line, "routed": round(through, 3), "added": round(through - without, 3)}))
            cost = median(pair[1]["cpu_us"] for pair in rounds)
            line = {"bench": f"router CPU of a request, {connections} connections", "unit": "µs", "ours": round(cost)}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
