"""Servers as processes on one core and a load generator on another, with what each request costs of the processor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATHS = os.pathsep.join(str(path) for path in (ROOT / "tests", ROOT / "workloads"))
INFER = "/inference.GRPCInferenceService/ModelInfer"
_TICKS = os.sysconf("SC_CLK_TCK")


def on_core(core: int, command: Sequence[str]) -> list[str]:
    """The command, bound to a core where there are several."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 or shutil.which("taskset") is None:
        return list(command)
    return ["taskset", "--cpu-list", str(cores[core % len(cores)]), *command]


@contextmanager
def server(
    command: Sequence[str], port: int, log: Path, env: Mapping[str, str] | None = None, core: int | None = 0
) -> Iterator[int]:
    """A server in a session of its own, once its port is open; the session's number. `core` None: on any core."""
    environment = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", **(env or {})}
    with log.open("w") as out:
        process = subprocess.Popen(
            command if core is None else on_core(core, command),
            env=environment,
            stdout=out,
            stderr=out,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[-1]} did not start:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.005)
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_for_answers(port: int, request: bytes, seconds: float = 120, pause: float = 0.1) -> None:
    """Until the prepared HTTP request is answered with 200. Raises RuntimeError with the last answer."""
    deadline = time.monotonic() + seconds
    answer = b""
    while not answer.startswith(b"HTTP/1.1 200"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer on port {port}: {answer[:300]!r}")
        time.sleep(pause if answer else 0)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(request)
            answer = client.recv(65_536) or b"closed"


def cpu_seconds(session: int) -> float:
    """CPU time of all processes of a session: steadier than wall time on a machine that does other work too."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended
            continue
        if int(fields[3]) == session:
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def load(port: int, session: int, how: tuple[int, float], request: bytes, grpc_path: str = "") -> dict[str, float]:
    """Run the load generator on the second core; `how`: connections and seconds.

    Requests a second as `rate` and CPU microseconds of the server for each as `cpu_us`, beside the generator's own
    figures. Raises RuntimeError when a request failed.
    """
    connections, seconds = how
    arguments = [str(port), str(connections), str(seconds), *([grpc_path] if grpc_path else [])]
    command = on_core(1, [sys.executable, str(HERE / "load.py"), *arguments])
    before = cpu_seconds(session)
    run = subprocess.run(command, input=request, stdout=subprocess.PIPE, check=True, timeout=seconds * 3 + 60)
    result: dict[str, float] = json.loads(run.stdout)
    if result["errors"]:
        raise RuntimeError(f"{result['errors']} requests failed: the figures would mean nothing")
    result["rate"] = result["requests"] / result["seconds"]
    result["cpu_us"] = 1e6 * (cpu_seconds(session) - before) / result["all_requests"]
    return result
