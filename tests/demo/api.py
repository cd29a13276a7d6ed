"""Reading from the API server through `kubectl proxy`: objects, logs, and metrics of pods and services."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 10.0


class ApiError(Exception):
    """The API server, or what it forwards to, did not give what was asked for."""


class Api:
    """GET requests over the proxy's Unix socket, one connection each: they are few."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def text(self, path: str) -> str:
        """The body at `path`. Raises ApiError for an answer of 400 or more, and where there is none."""
        connection = _UnixConnection(self._path)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(f"GET {path}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise ApiError(f"GET {path}: {response.status} {body[:300]}")
        return body

    def items(self, path: str) -> list[dict[str, Any]]:
        """The items of the list at `path`."""
        found: list[dict[str, Any]] = json.loads(self.text(path))["items"]
        return found


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_SECONDS)
        self._unix_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(str(self._unix_path))
