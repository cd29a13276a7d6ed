"""Requests per second, latency and cost of the server, beside its peers: `make bench-serve`.

Prints JSON lines {"bench", "unit", "ours", "peer", "theirs", "ratio", …}. A server has one core and the load generator
another one; peers take turns with ours in short rounds, and a line has the median of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench.peers import classifier
from bench.pinned import HERE, INFER, load, on_core, server, wait_for_answers
from bench.serve_peers import Start, running, starts
from bench.v2_requests import Row, binary_request, grpc_request, json_request
from ports import free_port
from servers.artifacts import image_artifact
from servers.process import serve_config

Figures = dict[str, float]
Turn = Callable[[], Figures]
PATH = f"/v2/models/{classifier.NAME}/infer"


def line(bench: str, unit: str, ours: float, peer: str = "", theirs: float | None = None, **more: float) -> None:
    """Print one figure."""
    document: dict[str, Any] = {"bench": bench, "unit": unit, "ours": round(ours, 2), "peer": peer, "theirs": None}
    if theirs is not None:
        document |= {"theirs": round(theirs, 2), "ratio": round(ours / theirs, 2)}
    print(json.dumps({**document, **{name: round(value, 3) for name, value in more.items()}}), flush=True)


def in_turns(rounds: int, *turns: Turn) -> list[Figures]:
    """The median of each figure of each turn, over rounds in which every one has its turn."""
    seen: list[list[Figures]] = [[turn() for turn in turns] for _ in range(rounds)]
    return [
        {name: median(figures[index][name] for figures in seen) for name in seen[0][index]}
        for index in range(len(turns))
    ]


def compare(bench: str, mine: Figures, peer: str, other: Figures, model_us: float | None = None) -> None:
    """One line for two servers; `server_us`: CPU microseconds of a request beyond those of the model."""
    more = {"p50_ms": mine["p50"], "p99_ms": mine["p99"], "cpu_us": mine["cpu_us"]}
    if model_us is not None:
        more |= {"model_us": model_us, "server_us": mine["cpu_us"] - model_us}
    more |= {"their_p50_ms": other["p50"], "their_p99_ms": other["p99"], "their_cpu_us": other["cpu_us"]}
    line(bench, "requests/s", mine["rate"], peer, other["rate"], **more)


def model_costs(weights: Path) -> Mapping[str, float]:
    """CPU microseconds of a row by the rows of a batch, on the server's core."""
    command = on_core(0, [sys.executable, str(HERE / "peers" / "classifier.py"), str(weights), "--time"])
    costs: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return costs


def bench_peers(seconds: float, rounds: int, scratch: Path) -> None:
    """A small classifier, 64 floats: JSON and binary over REST, raw and typed values over gRPC."""
    row = np.random.default_rng(1).random((1, classifier.FEATURES), dtype=np.float32)
    as_json, as_bytes = (make(PATH, row, classifier.INPUT) for make in (json_request, binary_request))
    raw, typed = (grpc_request(classifier.NAME, row, classifier.INPUT, raw=flag) for flag in (True, False))
    kinds: dict[str, Callable[[Start], tuple[int | None, bytes, str]]] = {
        "json": lambda start: (start.port, as_json, ""),
        "binary": lambda start: (start.port if start.binary else None, as_bytes, ""),
        "grpc-raw": lambda start: (start.grpc, raw, INFER),
        "grpc-typed": lambda start: (start.grpc, typed, INFER),
    }
    with running(scratch) as servers:
        for peer in servers:
            wait_for_answers(peer.start.port, as_json)
        model_us = model_costs(scratch / "classifier.safetensors")
        for connections in (1, 32):
            for kind, how in kinds.items():
                able = [peer for peer in servers if how(peer.start)[0] is not None]
                turns = [_turn(peer.session, (connections, seconds), *how(peer.start)) for peer in able]
                mine, *theirs = in_turns(rounds, *turns)
                for peer, other in zip(able[1:], theirs, strict=True):
                    compare(f"serve-{kind}-{connections}", mine, peer.start.name, other, model_us[str(connections)])


def bench_grpc(seconds: float, rounds: int, scratch: Path) -> None:
    """A call to ours beside one to grpcio alone, which answers with prepared bytes: what is left to save."""
    row = np.random.default_rng(1).random((1, classifier.FEATURES), dtype=np.float32)
    request = grpc_request(classifier.NAME, row, classifier.INPUT, raw=True)
    ours, echoes = starts(scratch)[0], {how: free_port() for how in ("loop", "threads")}
    assert ours.grpc is not None
    with ExitStack() as stack:
        session = stack.enter_context(server(ours.command, ours.port, scratch / "ours.log"))
        wait_for_answers(ours.port, json_request(PATH, row, classifier.INPUT))
        turns = {"ours": (session, ours.grpc)}
        for how, port in echoes.items():
            command = [sys.executable, str(HERE / "peers" / "grpc_echo.py"), str(port), how]
            turns[how] = stack.enter_context(server(command, port, scratch / f"{how}.log")), port
        for connections in (1, 32):
            mine, *alone = in_turns(
                rounds,
                *(_turn(session, (connections, seconds), port, request, INFER) for session, port in turns.values()),
            )
            for how, other in zip(echoes, alone, strict=True):
                compare(f"serve-grpc-floor-{connections}", mine, f"grpcio alone, {how}", other)


def _turn(session: int, how: tuple[int, float], port: int | None, request: bytes, grpc_path: str) -> Turn:
    assert port is not None
    return lambda: load(port, session, how, request, grpc_path)


def bench_encoding(seconds: float, rounds: int, scratch: Path) -> None:
    """JSON against binary for an image of 3 x 224 x 224 = 150,528 floats, around a model that costs little."""
    array: Row = np.random.default_rng(1).random((1, 150_528), dtype=np.float32)
    port = free_port()
    path = "/v2/models/rows/infer"
    command = [sys.executable, str(HERE / "trivial_server.py"), str(port)]
    with server(command, port, scratch / "trivial.log") as session:
        binary, text = in_turns(
            rounds,
            _turn(session, (4, seconds), port, binary_request(path, array, "x"), ""),
            _turn(session, (4, seconds), port, json_request(path, array, "x"), ""),
        )
        compare("serve-150528-floats-binary-4", binary, "json", text)


def bench_batching(seconds: float, rounds: int, scratch: Path) -> None:
    """Dynamic batching on against off, for a small ResNet on 8 x 8 pixels, as the operator starts its server."""
    artifact = image_artifact(scratch / "small")
    image: Row = np.random.default_rng(1).random((1, 1, 8, 8), dtype=np.float32)
    request = binary_request("/v2/models/digits/infer", image, "image")
    on, off = free_port(), free_port()
    alone = {"maxBatchSize": 1, "maxLatencyMilliseconds": 0}
    with (
        _builtin(serve_config(artifact), on, scratch / "on.log") as ours,
        _builtin(serve_config(artifact, batching=alone), off, scratch / "off.log") as theirs,
    ):
        for port in (on, off):
            wait_for_answers(port, request)
        for connections in (1, 32):
            how = connections, seconds
            turns = _turn(ours, how, on, request, ""), _turn(theirs, how, off, request, "")
            mine, other = in_turns(rounds, *turns)
            compare(f"serve-resnet10-batching-{connections}", mine, "batching off", other)


def _builtin(config: dict[str, Any], port: int, log: Path) -> AbstractContextManager[int]:
    placed = config | {"server": {"host": "127.0.0.1", "port": port}}
    module = [sys.executable, "-m", "modelyard_workloads.serve"]
    return server(module, port, log, {"MODELYARD_CONFIG": json.dumps(placed)})


def main() -> None:
    """All benchmarks, one after the other."""
    benches = {"peers": bench_peers, "grpc": bench_grpc, "encoding": bench_encoding, "batching": bench_batching}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured seconds of each turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server")
    parser.add_argument("--only", choices=sorted(benches), help="one of the parts")
    asked = parser.parse_args()
    for name, bench in benches.items():
        if asked.only in (None, name):
            with tempfile.TemporaryDirectory() as scratch:
                bench(asked.seconds, asked.rounds, Path(scratch))


if __name__ == "__main__":
    main()
