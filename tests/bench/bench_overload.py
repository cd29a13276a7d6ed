"""What a server does with ten times the requests that it can answer: `make bench-overload SECONDS=300`.

A ResNet-10 on 64 x 64 pixels has one core, the clients another one. First clients that wait for their answers find what
the server can do. Then requests come at ten times that rate whatever becomes of them, as from users who do not know of
each other. When they stop, one client asks until it is answered as fast as before. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

import numpy as np
from bench.pinned import load, server, wait_for_answers
from bench.v2_requests import Row, binary_request
from ports import free_port
from servers.artifacts import image_artifact
from servers.process import serve_config

FACTOR = 10
CLIENTS = 16  # that find the capacity
PATIENCE = 60.0  # seconds after which a client counts an answer as missing
IDLE = 50.0  # seconds after which a connection is not used again; the server closes it after 65
SHED = (429, 503)
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Answers:
    """What came of requests: codes (0: none), and seconds by code."""

    codes: Counter[int] = field(default_factory=Counter)
    seconds: dict[int, list[float]] = field(default_factory=dict)
    without_advice: int = 0
    """Refusals that do not say when to come again."""
    causes: Counter[str] = field(default_factory=Counter)
    """Of code 0: the names of what was raised."""

    def add(self, code: int, seconds: float, head: bytes) -> None:
        self.codes[code] += 1
        self.seconds.setdefault(code, []).append(seconds)
        if code in SHED and b"retry-after:" not in head.lower():
            self.without_advice += 1

    def p99(self, *codes: int) -> float:
        """Milliseconds; 0 where there was none."""
        found = sorted(s for code in codes for s in self.seconds.get(code, ()))
        return 1000 * found[int(len(found) * 0.99)] if found else 0.0


class Clients:
    """Requests on connections that are kept, one at a time on each."""

    def __init__(self, port: int, request: bytes) -> None:
        self._port, self._request = port, request
        self._idle: list[tuple[float, Stream]] = []  # and since when
        self.answers = Answers()

    def another(self) -> Clients:
        """With connections and answers of its own."""
        return Clients(self._port, self._request)

    async def ask(self) -> tuple[int, float]:
        """One request; its code and seconds."""
        began = monotonic()
        code, head = 0, b""
        try:
            async with asyncio.timeout(PATIENCE):
                code, head = await self._exchange(await self._connection())
        except (OSError, EOFError, TimeoutError) as error:
            code = 0
            self.answers.causes[type(error).__name__] += 1
        seconds = monotonic() - began
        self.answers.add(code, seconds, head)
        return code, seconds

    async def _connection(self) -> Stream:
        """An idle one, but not for so long that the server may be closing it, as clients' pools do; or a new one."""
        while self._idle:
            since, stream = self._idle.pop()
            if monotonic() - since < IDLE and not stream[0].at_eof():
                return stream
            stream[1].close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    async def _exchange(self, stream: Stream) -> tuple[int, bytes]:
        reader, writer = stream
        writer.write(self._request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
        await reader.readexactly(int(fields[b"content-length"]))
        if fields.get(b"connection") == b"close":
            writer.close()
        else:
            self._idle.append((monotonic(), stream))
        return int(head.split(b" ", 2)[1]), head


async def flood(clients: Clients, rate: float, seconds: float, usual: float) -> float:
    """Requests at this rate, each on its way whatever became of those before it; how long the server takes to recover
    from them, seconds."""
    began, sent, tasks = monotonic(), 0, set()
    shown = began
    while (now := monotonic()) - began < seconds:
        while sent < (now - began) * rate:
            task = asyncio.create_task(clients.ask())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        if now - shown > 10:
            shown = now
            sys.stderr.write(f"{now - began:.0f} s: {dict(sorted(clients.answers.codes.items()))}\n")
        await asyncio.sleep(0.002)
    recovered = await recovery(clients.another(), usual)
    if tasks:
        await asyncio.wait(tasks, timeout=PATIENCE)
    return recovered


async def recovery(clients: Clients, usual: float) -> float:
    """Seconds until a client that asks again and again is answered within twice the usual time, five times in a row."""
    began, good = monotonic(), 0
    while good < 5 and monotonic() - began < PATIENCE:
        code, seconds = await clients.ask()
        good = good + 1 if code == 200 and seconds < 2 * usual else 0
        await asyncio.sleep(0.02)
    return monotonic() - began


async def usual_seconds(port: int, request: bytes) -> float:
    """The median of a client's answers that is alone."""
    clients = Clients(port, request)
    return median([(await clients.ask())[1] for _ in range(50)])


def resident_mib(session: int) -> float:
    """Memory of the server's processes."""
    pages = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = stat.read_text().rsplit(")", 1)[1].split()
            pages += int(fields[21]) if int(fields[3]) == session else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def line(bench: str, unit: str, ours: float, **more: Any) -> None:
    """Print one figure."""
    document = {"bench": bench, "unit": unit, "ours": round(ours, 2), "peer": "", "theirs": None, **more}
    print(json.dumps(document), flush=True)


def bench(seconds: float, scratch: Path) -> None:
    artifact = image_artifact(scratch / "model", channels=3, size=64)
    image: Row = np.random.default_rng(1).random((1, 3, 64, 64), dtype=np.float32)
    request, port = binary_request("/v2/models/digits/infer", image, "image"), free_port()
    config = serve_config(artifact) | {"server": {"host": "127.0.0.1", "port": port}}
    command = [sys.executable, "-m", "modelyard_workloads.serve"]
    with server(command, port, scratch / "server.log", {"MODELYARD_CONFIG": json.dumps(config)}) as session:
        wait_for_answers(port, request)
        usual = asyncio.run(usual_seconds(port, request))
        capacity = load(port, session, (CLIENTS, 10), request)["rate"]
        before, clients = resident_mib(session), Clients(port, request)
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        recovered = asyncio.run(flood(clients, FACTOR * capacity, seconds, usual))
        answers, after = clients.answers, resident_mib(session)
    total = answers.codes.total()
    shed = sum(answers.codes[code] for code in SHED)
    line("overload-capacity", "requests/s", capacity, usual_ms=round(1000 * usual, 2))
    line("overload-answered", "requests/s", answers.codes[200] / seconds, asked=round(total / seconds, 1))
    line("overload-p99", "ms", answers.p99(200), refused_p99_ms=round(answers.p99(*SHED), 2))
    line("overload-lost", "requests", total - answers.codes[200] - shed, of=total, refused=shed, causes=answers.causes)
    line("overload-refused-without-advice", "requests", answers.without_advice)
    line("overload-memory", "MiB", after - before, before=round(before))
    line("overload-recovery", "s", recovered)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    with tempfile.TemporaryDirectory() as scratch:
        bench(parser.parse_args().seconds, Path(scratch))


if __name__ == "__main__":
    main()
