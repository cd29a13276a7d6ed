"""A server in this process, in a thread with its own event loop, around any runtime."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from modelyard_workloads.serve.app import Application
from modelyard_workloads.serve.batcher import InferenceThread
from modelyard_workloads.serve.config import ServeConfig, parse_config
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.metrics import ServerMetrics
from modelyard_workloads.serve.runtimes import Runtime
from modelyard_workloads.serve.server import Server
from modelyard_workloads.serve.traffic import Traffic
from modelyard_workloads.serve.wiring import loaded_model, serve

DIGEST = "sha256:" + "0" * 64
MODEL = "rows"
VERSION = "r1"
PATIENT = {"timeoutSeconds": 240}
"""Limits of a server whose process that explains may take only what other tests leave over."""


@dataclass
class Reply:
    """Status, headers in lower case, and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The parsed body."""
        return orjson.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error; the body must be `{"error": "<string>"}` and nothing else."""
        document = self.json()
        assert isinstance(document, dict)
        assert list(document) == ["error"], document
        assert isinstance(document["error"], str)
        return document["error"]


@dataclass
class Running:
    """A running server."""

    port: int
    plane: DataPlane
    app: Application
    traffic: Traffic
    server: Server

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENT["timeoutSeconds"] + 10)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def infer(self, document: object, headers: Mapping[str, str] | None = None, path: str = "") -> Reply:
        """One JSON inference."""
        return self.call("POST", path or f"/v2/models/{MODEL}/infer", orjson.dumps(document), headers)


def configure(**sections: Mapping[str, Any]) -> ServeConfig:
    """A configuration with the defaults of the contract where nothing else is said."""
    document = {
        "model": {"name": MODEL, "path": "/nowhere", "version": VERSION},
        "server": {"host": "127.0.0.1", "port": 0},
        **sections,
    }
    return parse_config(orjson.dumps(document).decode())


@contextmanager
def running(runtime: Runtime | None, config: ServeConfig | None = None) -> Iterator[Running]:
    """Serve `runtime`; None: a server whose model is still loading."""
    config = config or configure()
    plane = DataPlane(config.model.name, config.model.version)
    metrics = ServerMetrics(config.model.name)
    served = serve(plane, metrics, config)
    thread = InferenceThread()
    started = threading.Event()

    class Both:
        """As in the real server: statistics and metrics."""

        def batch(self, requests: int, rows: int, waits: list[float], seconds: float) -> None:
            """A batch ran."""
            plane.statistics.batch(requests, rows, waits, seconds)
            metrics.batch(requests, rows, waits, seconds)

        def step(self, sequences: int, waits: list[float], seconds: float) -> None:
            """A step ran."""
            plane.statistics.step(sequences, waits, seconds)
            metrics.step(sequences, waits, seconds)

    def on_started() -> None:
        if runtime is not None:
            thread.start()
            plane.loaded(loaded_model(runtime, (DIGEST, 7), config, thread, (Both(), metrics)))
            metrics.loaded(config.model.version, DIGEST, runtime.task, 7, 0.1)
        started.set()

    server = Server(config, served, on_started)
    loop_thread = threading.Thread(target=server.run, daemon=True)
    loop_thread.start()
    assert started.wait(60), "the server did not start"
    try:
        yield Running(server.servers[0].sockets[0].getsockname()[1], plane, served.app, served.traffic, server)
    finally:
        server.should_exit = True
        loop_thread.join(60)


def eventually(condition: Any, seconds: float = 60.0) -> None:
    """Wait until `condition()` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
