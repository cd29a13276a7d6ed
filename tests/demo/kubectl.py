"""kubectl and helm as subprocesses: one context, named in every call; a timeout on every call."""

import json
import os
import queue
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from demo.errors import DemoError

START_SECONDS = 20


@dataclass(frozen=True)
class Tools:
    """The two programs, and the cluster that they talk to; no kubeconfig: kubectl's own default."""

    kubectl: str
    helm: str
    context: str
    kubeconfig: Path | None

    def run_kubectl(self, *arguments: str, body: object = None, seconds: float = 60) -> str:
        """Output of one call; `body` goes to its standard input as JSON."""
        text = None if body is None else json.dumps(body)
        return self._run([self.kubectl, "--context", self.context, *arguments], text, seconds)

    def get(self, *arguments: str) -> dict[str, Any] | None:
        """One object as JSON, None when there is none."""
        text = self.run_kubectl("get", *arguments, "--ignore-not-found", "--output=json")
        found: dict[str, Any] | None = json.loads(text) if text.strip() else None
        return found

    def run_helm(self, *arguments: str, body: object = None, seconds: float = 300) -> str:
        """Output of one call; `body` goes to its standard input as JSON, for `--values -`."""
        text = None if body is None else json.dumps(body)
        return self._run([self.helm, "--kube-context", self.context, *arguments], text, seconds)

    @contextmanager
    def proxy(self) -> Iterator[Path]:
        """`kubectl proxy` on a Unix socket that only this user can open; its path."""
        with tempfile.TemporaryDirectory(prefix="modelyard-demo-") as directory:
            path = Path(directory) / "api.sock"
            with self._background("proxy", f"--unix-socket={path}") as output:
                _line_with(output, "Starting to serve", "kubectl proxy")
                yield path

    @contextmanager
    def port_forward(self, namespace: str, target: str, port: int) -> Iterator[int]:
        """The local port, on 127.0.0.1, that leads to the target's."""
        with self._background("--namespace", namespace, "port-forward", target, f":{port}") as output:
            line = _line_with(output, "Forwarding from 127.0.0.1:", "kubectl port-forward")
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found is not None
            yield int(found[1])

    @contextmanager
    def _background(self, *arguments: str) -> Iterator[IO[str]]:
        command = [self.kubectl, "--context", self.context, *arguments]
        process = subprocess.Popen(
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.terminate()
            process.wait(10)
            process.stdout.close()

    def _environment(self) -> dict[str, str]:
        return dict(os.environ) if self.kubeconfig is None else {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def _run(self, command: list[str], text: str | None, seconds: float) -> str:
        shown = " ".join([Path(command[0]).name, *command[1:]])
        try:
            done = subprocess.run(
                command,
                env=self._environment(),
                input="" if text is None else text,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DemoError(f"`{shown}` did not end within {seconds:.0f} s; is the cluster healthy?") from None
        if done.returncode != 0:
            raise DemoError(f"`{shown}` failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout


def _line_with(output: IO[str], beginning: str, what: str) -> str:
    """The first line of a background process that begins so; its other output is read on, so that it never blocks."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        try:
            for line in output:
                lines.put(line)
        except ValueError:  # closed: the process was ended
            pass
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    said: list[str] = []
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if line.startswith(beginning):
            return line
        said.append(line)
        if not line:
            break
    raise DemoError(f"{what} does not work:\n{''.join(said).strip() or 'it said nothing'}")
