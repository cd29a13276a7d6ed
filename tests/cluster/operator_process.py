"""The operator as a process of its own, started as a user starts it outside a cluster."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cluster.kubernetes_api import eventually
from ports import free_port

ROOT = Path(__file__).resolve().parents[2]


class OperatorProcess:
    """One replica. `start` may be called again after its end; the log is appended to."""

    def __init__(self, kubeconfig: Path, namespaces: list[str], log: Path, *options: str) -> None:
        self.log = log
        self.port = free_port()
        self._command = [
            *(sys.executable, "-m", "modelyard_operator", "--kubeconfig", str(kubeconfig)),
            *("--namespaces", ",".join(namespaces), "--operator-namespace", namespaces[0]),
            *("--workloads-image", "localhost/modelyard/workloads:dev"),
            *("--router-image", "localhost/modelyard/operator:dev"),
            *("--health-port", str(self.port), *options),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MODELYARD_", "KUBECONFIG"))}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT / "operator", env=environment, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        """A signal, if the process is there."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.send(signal.SIGKILL)
        self.wait(30)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.send(signal.SIGTERM)
        return self.wait(30)

    def wait(self, seconds: float) -> int:
        assert self._process is not None, "not started"
        return self._process.wait(seconds)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_ready(self, seconds: float = 180) -> None:
        """A dozen begin at once with the tests that run side by side: on a slow machine each imports for a minute."""
        eventually(
            f"operator on port {self.port} is ready", lambda: self.probe("/readyz")[0] == 200, seconds, self.tail
        )

    def probe(self, path: str) -> tuple[int, str]:
        """(status, text) of an HTTP probe; status 0 where nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def wait_for_end(process: OperatorProcess, seconds: float) -> None:
    """Until the process has ended, by whatever hand."""
    due = time.monotonic() + seconds
    while process.running:
        assert time.monotonic() < due, f"still running after {seconds:.0f} s\n{process.tail()}"
        time.sleep(0.05)
