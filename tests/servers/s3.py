"""A real S3 server on this machine: moto's, in a virtual environment of its own.

Its botocore and the Kubernetes client ask for different versions of python-dateutil. The environment is made once,
inside the one that the tests run in.
"""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ports import free_port

_PACKAGES = ("moto[s3]>=5.1,<6", "flask>=3,<4", "flask-cors>=5")
_SECONDS = 300


def _environment() -> Path:
    """The Python of the server's environment."""
    home = Path(sys.prefix) / "s3-server"
    python = home / "bin" / "python"
    with (Path(sys.prefix) / "s3-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            uv = [sys.executable, "-m", "uv", "--quiet"]
            subprocess.run([*uv, "venv", "--clear", "--python", sys.executable, str(home)], check=True, timeout=60)
            install = [*uv, "pip", "install", "--python", str(python), *_PACKAGES]
            subprocess.run(install, check=True, timeout=_SECONDS)
            (home / "complete").touch()
    return python


@contextlib.contextmanager
def s3_server(directory: Path) -> Iterator[str]:
    """Its address while it runs; `directory` gets its log."""
    port = free_port()
    command = [str(_environment()), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (directory / "s3.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_until_it_answers(address, process)
            yield address
        finally:
            process.kill()
            process.wait(timeout=30)


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{address}/moto-api/", timeout=60):
                return
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, "the S3 server ended"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.1)
