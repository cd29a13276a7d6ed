"""The servers that `make bench-serve` compares: ours, and peers from PyPI in environments of their own.

All serve the model of peers/classifier.py from the same weights, one worker each, on one core.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import classifier
from bench.pinned import HERE, ROOT, server
from ports import free_port

ENVIRONMENTS = ROOT / ".cache" / "bench-peers"
SCRIPTS = HERE / "peers"


@dataclass(frozen=True)
class Start:
    """How a server is started; `grpc` None where it speaks none, `binary`: over REST."""

    name: str
    command: Sequence[str]
    port: int
    grpc: int | None = None
    binary: bool = False
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """One that runs; `session` as in pinned.py."""

    start: Start
    session: int


def _version(name: str) -> str:
    code = f"from importlib.metadata import version; print(version('{name}'))"
    python = str(ENVIRONMENTS / name / "bin" / "python")
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _mlserver_settings(directory: Path, weights: Path, ports: tuple[int, int]) -> None:
    """Without workers, logging and its default debug mode; adaptive batching off, which made it slower here."""
    directory.mkdir()
    settings = {
        "debug": False,
        "parallel_workers": 0,
        "host": "127.0.0.1",
        "http_port": ports[0],
        "grpc_port": ports[1],
        "metrics_port": free_port(),
        "metrics_dir": str(directory),
        "use_structured_logging": False,
    }
    model = {
        "name": classifier.NAME,
        "implementation": "bench.peers.mlserver_runtime.Runtime",
        "parameters": {"uri": str(weights)},
    }
    (directory / "settings.json").write_text(json.dumps(settings))
    (directory / "model-settings.json").write_text(json.dumps(model))


def starts(scratch: Path) -> list[Start]:
    """Ours, then the peers. One whose environment is not there is left out, which is said."""
    weights = scratch / "classifier.safetensors"
    classifier.write(str(weights))
    rest, grpc = free_port(), free_port()
    command = [sys.executable, str(SCRIPTS / "ours.py"), str(weights), str(rest), str(grpc)]
    found = [Start("ours", command, rest, grpc, binary=True)]
    for name in ("mlserver", "kserve", "litserve", "fastapi"):
        python = ENVIRONMENTS / name / "bin" / "python"
        if python.exists():
            found.append(_peer(name, python, weights, scratch))
        else:
            print(f"{name} is not installed in {ENVIRONMENTS}: left out", file=sys.stderr)
    return found


def _peer(name: str, python: Path, weights: Path, scratch: Path) -> Start:
    rest, grpc, called = free_port(), free_port(), f"{name} {_version(name)}"
    script = [str(python), str(SCRIPTS / f"{name}_server.py"), str(weights)]
    if name == "mlserver":
        _mlserver_settings(scratch / name, weights, (rest, grpc))
        return Start(called, [str(python.parent / name), "start", str(scratch / name)], rest, grpc)
    if name == "kserve":
        ports = [f"--http_port={rest}", f"--grpc_port={grpc}", "--enable_latency_logging=false"]
        return Start(called, [*script, *ports], rest, grpc, binary=True)
    return Start(called, [*script, str(rest)], rest)


@contextmanager
def running(scratch: Path) -> Iterator[list[Peer]]:
    """Ours and the peers, all of them up."""
    with ExitStack() as stack:
        yield [
            Peer(start, stack.enter_context(server(start.command, start.port, scratch / f"{index}.log", start.env)))
            for index, start in enumerate(starts(scratch))
        ]
