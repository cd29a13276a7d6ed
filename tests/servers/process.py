"""The server as a pod runs it: `python -m modelyard_workloads.serve` with MODELYARD_CONFIG."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelyard_workloads.artifact import Artifact

WORKLOADS = Path(__file__).parents[2] / "workloads"
_PORT = re.compile(r"listening on port (\d+)")


class ServerProcess:
    """A server process; its log goes to a file beside its termination message."""

    def __init__(self, config: Mapping[str, Any] | str, directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.termination = directory / "termination-log"
        self.log = directory / "server.log"
        text = config if isinstance(config, str) else json.dumps(config)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "modelyard_workloads.serve"],
            env={
                **os.environ,
                "PYTHONPATH": str(WORKLOADS),
                "MODELYARD_CONFIG": text,
                "MODELYARD_TERMINATION_LOG": str(self.termination),
                **(env or {}),
            },
            stderr=self.log.open("w"),
        )
        self.port = 0

    def wait_bound(self, seconds: float = 120) -> None:
        """Until the port is bound."""
        deadline = time.monotonic() + seconds
        while not (found := _PORT.search(self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)
        self.port = int(found.group(1))

    def wait_ready(self, seconds: float = 240) -> None:
        """Until the ready check passes."""
        self.wait_bound()
        deadline = time.monotonic() + seconds
        while self.get("/v2/health/ready")[0] != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def wait_exit(self, seconds: float = 240) -> int:
        """The exit code."""
        return self.process.wait(seconds)

    def get(self, path: str) -> tuple[int, Any]:
        """Status and parsed body of a GET."""
        return self._call("GET", path, None)

    def post(self, path: str, document: object) -> tuple[int, Any]:
        """Status and parsed body of a POST of JSON."""
        return self._call("POST", path, json.dumps(document))

    def text(self, path: str, document: object = None) -> str:
        """The body of a GET, or of a POST of JSON, as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            body = None if document is None else json.dumps(document)
            connection.request("GET" if document is None else "POST", path, body)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def _call(self, method: str, path: str, body: str | None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def failure(self) -> dict[str, str]:
        """The termination message's failure."""
        content = self.termination.read_bytes()
        assert len(content) <= 4096
        failure: dict[str, str] = json.loads(content)["failure"]
        return failure

    def terminate(self) -> None:
        """SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


def serve_config(artifact: Artifact, **sections: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration the operator writes for an artifact, on a free port of the loopback."""
    return {
        "model": {"name": "digits", "path": str(artifact.path), "digest": artifact.digest, "version": "r1"},
        "server": {"host": "127.0.0.1", "port": 0},
        **sections,
    }


@contextmanager
def serving(
    config: Mapping[str, Any] | str, directory: Path, env: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """Start a server process; it is gone afterwards."""
    server = ServerProcess(config, directory, env)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait(60)
