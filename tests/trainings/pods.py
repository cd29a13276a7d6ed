"""A training pod without a cluster: the launcher as a process, its environment, output, termination message and exit
code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ports import free_port

ROOT = Path(__file__).parents[2]
# A ResNet that two ranks on two cores train in a few seconds: 5 steps an epoch.
SMALL = {"architecture": "resnet10", "imageSize": 8, "batchSize": 256, "epochs": 3, "logEverySteps": 1, "dropout": 0.1}


def configuration(output: Path, parameters: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """MODELYARD_CONFIG for the digits, as the operator renders it."""
    return {
        "task": "image-classification",
        "parameters": parameters,
        "training": {"name": "digits", "namespace": "tests", "uid": "u-1", "generation": 1},
        "attempt": 1,
        "dataset": {"uri": "example://digits"},
        "model": {"uri": ""},
        "output": {"path": str(output), "uri": "pvc://digits-output"},
        "checkpoint": {"everySteps": None, "everySeconds": None, "keepLast": 2, "resume": "Auto"},
        **changes,
    }


class Pod:
    """One launcher and its ranks."""

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        *,
        processes: int = 2,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._termination = directory / f"termination-{time.monotonic_ns()}.json"
        self.metrics_port = free_port()
        variables = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'workloads'}:{ROOT / 'tests'}",
            "MODELYARD_CONFIG": json.dumps(config),
            "MODELYARD_TERMINATION_LOG": str(self._termination),
            "MODELYARD_METRICS_PORT": str(self.metrics_port),
            "MASTER_PORT": str(free_port()),
            "NPROC_PER_NODE": str(processes),
            **(environment or {}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modelyard_workloads.launch"],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of this name on rank 0's stdout so far."""
        found = []
        for line in list(self.lines):
            text = line.removeprefix("[rank 0] ")
            if text.startswith('{"event": "' + name + '"'):
                found.append(json.loads(text))
        return found

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is true of the output; fails with the output when the pod ends before."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition():
                ended = self.process.poll() is not None and not self._reader.is_alive()
                assert not ended and time.monotonic() < deadline, self.text
                self._changed.wait(0.2)

    def wait_for_step(self, step: int) -> None:
        """Wait for the log line of a step."""
        self.wait_for(lambda: any(e["step"] >= step for e in self.events("progress")))

    def rank_pid(self, rank: int) -> int:
        """The process of a rank."""
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return int(pid)
        raise AssertionError(f"rank {rank} is not running\n{self.text}")

    def kill_rank(self, rank: int) -> None:
        """SIGKILL, as the kernel does to a process that is out of memory."""
        os.kill(self.rank_pid(rank), signal.SIGKILL)

    def wait(self, seconds: float = 120) -> int:
        """The exit code; the launcher is killed when it takes longer."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the pod did not end within {seconds} s\n{self.text}") from None
        self._reader.join(10)
        return code

    @property
    def termination(self) -> dict[str, Any]:
        """The termination message."""
        content = self._termination.read_bytes()
        assert len(content) <= 4096
        message: dict[str, Any] = json.loads(content)
        return message

    @property
    def text(self) -> str:
        """The pod's log."""
        return "\n".join(self.lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()


def weights_digest(message: dict[str, Any], output: Path, name: str = "final") -> str:
    """SHA-256 of the published weights named in a termination message."""
    (entry,) = [a for a in message["result"]["artifacts"] if a["name"] == name]
    directory = output / "artifacts" / str(entry["uri"]).rsplit("/", 1)[1]
    manifest = json.loads((directory / "modelyard.json").read_bytes())
    (weights,) = [f for f in manifest["files"] if f["path"] == "model.safetensors"]
    return str(weights["sha256"])
