"""Requests per second and latency of the server: `make bench-serve`.

Prints JSON lines {"bench", "unit", "ours", "peer", "theirs", "ratio", …}. Server and load generator share the machine's
cores. The peer, FastAPI with the same torch model, takes part when `fastapi` can be imported; runs are interleaved.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from servers.artifacts import image_artifact
from servers.process import WORKLOADS, serve_config, serving

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(WORKLOADS), str(HERE.parent)])


def json_request(path: str, array: np.ndarray, name: str) -> bytes:
    """A prepared HTTP request with the tensor as JSON."""
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "data": [round(float(v), 6) for v in array.flat],
    }
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def binary_request(path: str, array: np.ndarray, name: str) -> bytes:
    """A prepared HTTP request with the tensor as raw bytes, and raw bytes asked for."""
    raw = array.tobytes()
    tensor = {
        "name": name,
        "shape": list(array.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }
    body = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(body)}\r\n"
        f"Content-Length: {len(body) + len(raw)}\r\n\r\n"
    )
    return head.encode() + body + raw


def cpu_seconds(port: int) -> float:
    """CPU time the server behind a port has used: steadier than wall time on a machine that does other work too."""
    text = subprocess.run(["ss", "-ltnpH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    pid = text.split("pid=")[1].split(",")[0]
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, connections: int, seconds: float, request: bytes) -> dict[str, float]:
    """Run the load generator; requests/s as `rate` beside its own figures."""
    command = [sys.executable, str(HERE / "load.py"), str(port), str(connections), str(seconds)]
    before = cpu_seconds(port)
    run = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True, timeout=seconds * 3 + 60)
    result: dict[str, float] = json.loads(run.stdout)
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} requests failed: the figures would mean nothing")
    result["rate"] = result["requests"] / result["seconds"]
    result["cpu_us"] = 1e6 * (cpu_seconds(port) - before) / result["all_requests"]
    return result


@contextmanager
def script(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Another server of this directory as a process."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / name), *arguments], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": PATHS}
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def fastapi(artifact: Path) -> Iterator[int]:
    """The peer's port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with script("fastapi_server.py", str(artifact), str(port)):
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield port


def line(bench: str, unit: str, ours: float, peer: str = "", theirs: float | None = None, **more: float) -> None:
    """Print one figure."""
    document: dict[str, Any] = {"bench": bench, "unit": unit, "ours": round(ours, 2), "peer": peer, "theirs": None}
    if theirs is not None:
        document |= {"theirs": round(theirs, 2), "ratio": round(ours / theirs, 2)}
    print(json.dumps({**document, **{name: round(value, 3) for name, value in more.items()}}), flush=True)


def figures(result: Mapping[str, float]) -> dict[str, Any]:
    """Latencies, and CPU microseconds of the server for a request."""
    return {"p50_ms": result["p50"], "p99_ms": result["p99"], "cpu_us": result["cpu_us"]}


def bench_overhead(seconds: float) -> None:
    """The server alone: 64 floats in, a model that costs microseconds."""
    array = np.arange(64, dtype=np.float32).reshape(1, 64)
    with script("trivial_server.py") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        path = "/v2/models/rows/infer"
        for name, request in (("json", json_request(path, array, "x")), ("binary", binary_request(path, array, "x"))):
            for connections in (1, 32):
                result = load(port, connections, seconds, request)
                line(f"serve-overhead-{name}-{connections}", "requests/s", result["rate"], **figures(result))


def bench_model(seconds: float, directory: Path) -> None:
    """A small ResNet on 8 x 8 pixels, against the peer, and with batching off."""
    artifact = image_artifact(directory / "small")
    array = np.random.default_rng(1).random((1, 1, 8, 8), dtype=np.float32)
    path = "/v2/models/digits/infer"
    as_json, as_bytes = json_request(path, array, "image"), binary_request(path, array, "image")
    off = serve_config(artifact, batching={"maxBatchSize": 1, "maxLatencyMilliseconds": 0})
    with (
        served(serve_config(artifact), directory / "ours") as ours,
        served(off, directory / "off") as unbatched,
    ):
        for connections in (1, 32):
            compare(
                f"serve-resnet10-json-{connections}", ours, "batching off", unbatched, (connections, seconds, as_json)
            )
            result = load(ours, connections, seconds, as_bytes)
            line(f"serve-resnet10-binary-{connections}", "requests/s", result["rate"], **figures(result))
        if importlib.util.find_spec("fastapi"):
            with fastapi(artifact.path) as peer:
                for connections in (1, 32):
                    compare(
                        f"serve-resnet10-json-{connections}", ours, "fastapi", peer, (connections, seconds, as_json)
                    )


def compare(bench: str, ours: int, peer: str, theirs: int, what: tuple[int, float, bytes]) -> None:
    """One line for two ports under the same load, measured in turns and averaged."""
    runs = [(load(ours, *what), load(theirs, *what)) for _ in range(2)]
    mine, other = ({key: sum(run[side][key] for run in runs) / len(runs) for key in runs[0][0]} for side in (0, 1))
    more = {"their_p50_ms": other["p50"], "their_p99_ms": other["p99"], "their_cpu_us": other["cpu_us"]}
    line(bench, "requests/s", mine["rate"], peer, other["rate"], **figures(mine), **more)


def bench_encoding(seconds: float) -> None:
    """JSON against binary for an image of 3 x 224 x 224 = 150,528 floats, around a model that costs little."""
    array = np.random.default_rng(1).random((1, 150_528), dtype=np.float32)
    with script("trivial_server.py") as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        path = "/v2/models/rows/infer"
        binary = load(port, 4, seconds, binary_request(path, array, "x"))
        text = load(port, 4, seconds, json_request(path, array, "x"))
        line("serve-150528-floats-binary-4", "requests/s", binary["rate"], "json", text["rate"], p99_ms=binary["p99"])


@contextmanager
def served(config: Mapping[str, Any], directory: Path) -> Iterator[int]:
    """Our server's port, ready."""
    directory.mkdir()
    with serving(config, directory) as server:
        server.wait_ready()
        yield server.port


def main() -> None:
    """All benchmarks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured seconds of each figure")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        bench_overhead(seconds)
        bench_encoding(seconds)
        bench_model(seconds, Path(scratch))


if __name__ == "__main__":
    main()
