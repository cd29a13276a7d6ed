"""From the start of a server's process to its first answer: `make bench-cold-start`.

Prints JSON lines {"bench", "unit", "ours", "peer", "theirs", "ratio", …}, seconds: ratio above 1 says that ours is
quicker. The files are in the page cache, as on a node that has run the image; `cpu_s` are seconds of the processor
until the first answer, which hold on a busy machine too. The floor is a process that imports torch and ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench.peers import classifier
from bench.pinned import cpu_seconds, server, wait_for_answers
from bench.serve_peers import Start, starts
from bench.v2_requests import Row, json_request
from ports import free_port
from servers.artifacts import image_artifact
from servers.process import serve_config

Figures = Mapping[str, float]


def first_answer(start: Start, request: bytes, log: Path) -> Figures:
    """Seconds until the first answer, and of the processor."""
    began = time.monotonic()
    with server(start.command, start.port, log, start.env, core=None) as session:
        wait_for_answers(start.port, request, pause=0.005)
        return {"s": time.monotonic() - began, "cpu_s": cpu_seconds(session)}


def import_torch() -> Figures:
    """The floor."""
    began = time.monotonic()
    code = "import time, torch; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120)
    return {"s": time.monotonic() - began, "cpu_s": float(done.stdout)}


def compare(bench: str, mine: Figures, peer: str, other: Figures) -> None:
    """One line."""
    document: dict[str, Any] = {"bench": bench, "unit": "s", "ours": round(mine["s"], 2), "peer": peer}
    document |= {"theirs": round(other["s"], 2), "ratio": round(other["s"] / mine["s"], 2)}
    print(
        json.dumps({**document, "cpu_s": round(mine["cpu_s"], 2), "their_cpu_s": round(other["cpu_s"], 2)}), flush=True
    )


def builtin(name: str, scratch: Path) -> Start:
    """The server as the operator starts it, with a network of that name for pictures of 8 x 8."""
    artifact, port = image_artifact(scratch / name, name=name), free_port()
    config = serve_config(artifact) | {"server": {"host": "127.0.0.1", "port": port}}
    module = [sys.executable, "-m", "modelyard_workloads.serve"]
    return Start(name, module, port, env={"MODELYARD_CONFIG": json.dumps(config)})


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--network", default="resnet50", help="what the builtin server loads")
    asked = parser.parse_args()
    row: Row = np.zeros((1, classifier.FEATURES), dtype=np.float32)
    small = json_request(f"/v2/models/{classifier.NAME}/infer", row, classifier.INPUT)
    image = json_request("/v2/models/digits/infer", row.reshape(1, 1, 8, 8), "image")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        large, ours, *peers = builtin(asked.network, scratch), *starts(scratch)
        turns: dict[str, Callable[[], Figures]] = {
            start.name: lambda start=start: first_answer(start, small, scratch / "log")  # type: ignore[misc]
            for start in (ours, *peers)
        }
        turns |= {large.name: lambda: first_answer(large, image, scratch / "log"), "import torch": import_torch}
        seen = [{name: turn() for name, turn in turns.items()} for _ in range(asked.rounds)]
    medians = {name: {key: median(one[name][key] for one in seen) for key in ("s", "cpu_s")} for name in turns}
    for peer in (*(peer.name for peer in peers), "import torch"):
        compare("cold-start-classifier", medians[ours.name], peer, medians[peer])
    compare(f"cold-start-{large.name}", medians[large.name], "import torch", medians["import torch"])


if __name__ == "__main__":
    main()
