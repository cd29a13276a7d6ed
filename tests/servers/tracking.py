"""A tracking server of MLflow in this process: the six calls of its REST API that a training makes, in memory.

https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from servers.listening import listening

KEY = "of-the-team"
PREFIX = "/api/2.0/mlflow/"


class Tracking:
    """What was told to it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.open = threading.Event()
        """Cleared: requests wait."""
        self.open.set()

    def answer(self, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        call: Any = getattr(self, path.replace("/", "_").replace("-", "_"), None)
        return call(**asked) if call else (404, {"error_code": "ENDPOINT_NOT_FOUND"})

    def experiments_get_by_name(self, experiment_name: str) -> tuple[int, dict[str, Any]]:
        if experiment_name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST"}
        return 200, {"experiment": {"experiment_id": self.experiments[experiment_name]}}

    def experiments_create(self, name: str) -> tuple[int, dict[str, Any]]:
        self.experiments[name] = str(len(self.experiments) + 1)
        return 200, {"experiment_id": self.experiments[name]}

    def runs_search(self, experiment_ids: list[str], filter: str, max_results: int) -> tuple[int, dict[str, Any]]:
        asked = re.fullmatch(r"tags\.`([\w.]+)` = '([^']*)'", filter)
        if asked is None:
            return 400, {"error_code": "INVALID_PARAMETER_VALUE"}
        found = [
            {"info": {"run_id": key}}
            for key, run in self.runs.items()
            if run["experiment"] in experiment_ids and run["tags"].get(asked[1]) == asked[2]
        ]
        return 200, {"runs": found[:max_results]} if found else {}

    def runs_create(
        self, experiment_id: str, run_name: str, start_time: int, tags: list[dict[str, str]]
    ) -> tuple[int, dict[str, Any]]:
        key = f"r{len(self.runs) + 1}"
        told = {tag["key"]: tag["value"] for tag in tags}
        run = {"experiment": experiment_id, "name": run_name, "status": "RUNNING", "tags": told, "began": start_time}
        self.runs[key] = {**run, "statuses": ["RUNNING"], "metrics": [], "params": {}}
        return 200, {"run": {"info": {"run_id": key}}}

    def runs_log_batch(
        self, run_id: str, metrics: list[dict[str, Any]] | None = None, params: list[dict[str, str]] | None = None
    ) -> tuple[int, dict[str, Any]]:
        self.runs[run_id]["metrics"] += [(m["key"], m["step"], m["value"]) for m in metrics or ()]
        self.runs[run_id]["params"] |= {p["key"]: p["value"] for p in params or ()}
        return 200, {}

    def runs_update(self, run_id: str, status: str, end_time: int | None = None) -> tuple[int, dict[str, Any]]:
        self.runs[run_id] |= {"status": status, "ended": end_time}
        self.runs[run_id]["statuses"].append(status)
        return 200, {}


@contextmanager
def tracking() -> Iterator[Tracking]:
    """Serve on this machine, for whoever has the key."""
    with listening(lambda host: Tracking(f"http://{host}"), _handler) as made:
        try:
            yield made
        finally:
            made.open.set()


def _handler(made: Tracking) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer({name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, asked: dict[str, Any]) -> None:
            made.open.wait(30)
            path = urlsplit(self.path).path.removeprefix(PREFIX)
            allowed = self.headers.get("Authorization") == f"Bearer {KEY}"
            code, answer = made.answer(path, asked) if allowed else (401, {"error_code": "UNAUTHENTICATED"})
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    return Handler
