"""The end of a server: a drain loses no request, ends in time, and works while the model loads."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modelyard_workloads.artifact import Artifact
from servers.artifacts import image_artifact
from servers.process import ServerProcess, serve_config, serving

INFER = "/v2/models/digits/infer"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return image_artifact(tmp_path_factory.mktemp("artifact"))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).random((5, 1, 8, 8), dtype=np.float32)


def document(images: np.ndarray) -> dict[str, Any]:
    data = images.ravel().tolist()
    return {"inputs": [{"name": "image", "shape": list(images.shape), "datatype": "FP32", "data": data}]}


class Traffic:
    """Clients that keep their connection, and open new ones only while the ready check passes, as a Service does."""

    def __init__(self, server: ServerProcess, images: np.ndarray, clients: int) -> None:
        self.answered = 0
        self.after_signal = 0
        self.lost: list[str] = []
        self.signalled = False
        self._server = server
        self._body = json.dumps(document(images[:1]))
        self._in_service = True
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(clients)]
        self._threads.append(threading.Thread(target=self._endpoints, daemon=True))
        for thread in self._threads:
            thread.start()

    def wait_for(self, enough: Callable[[], bool]) -> None:
        """Until there was enough traffic, however slow this machine is; 60 s at most, or until a request is lost."""
        deadline = time.monotonic() + 60
        while not enough() and not self.lost and time.monotonic() < deadline:
            time.sleep(0.05)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(120)

    def _endpoints(self) -> None:
        while self._in_service:
            try:
                ready = self._server.get("/v2/health/ready")[0] == 200
            except OSError:
                ready = False
            if not ready:
                self.wait_for(lambda: self.after_signal > 10)
                time.sleep(0.3)  # endpoints change a while after the pod was told to end
            self._in_service = ready

    def _client(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while connection is not None or self._in_service:
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=60)
                connection.request("POST", INFER, self._body)
                response = connection.getresponse()
                response.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                return
            self.answered += 1
            self.after_signal += self.signalled
            if response.status != 200:
                self.lost.append(str(response.status))
            if response.getheader("connection") == "close":
                connection = None


def test_constant_traffic_through_sigterm_loses_no_request(
    artifact: Artifact, tmp_path: Path, images: np.ndarray
) -> None:
    with serving(serve_config(artifact, drain={"timeoutSeconds": 90}), tmp_path) as server:
        server.wait_ready()
        traffic = Traffic(server, images, clients=6)
        traffic.wait_for(lambda: traffic.answered > 50)
        traffic.signalled = True
        server.terminate()
        deadline = time.monotonic() + 60
        while server.get("/v2/health/ready")[0] != 503:
            assert time.monotonic() < deadline, "still ready after the signal"
        assert server.get("/v2/health/live")[0] == 200
        assert server.wait_exit(90) == 0
        traffic.join()
        log = server.log.read_text()
    assert traffic.lost == []
    assert traffic.answered > 50
    assert traffic.after_signal > 10
    assert "drained" in log


def test_a_drain_ends_at_its_time_although_requests_keep_coming(artifact: Artifact, tmp_path: Path) -> None:
    with serving(serve_config(artifact, drain={"timeoutSeconds": 2}), tmp_path) as server:
        server.wait_ready()
        server.terminate()
        started = time.monotonic()
        while server.process.poll() is None and time.monotonic() - started < 20:
            try:
                server.get("/v2/models/digits")
            except OSError:
                break
        assert server.wait_exit(10) == 0
        assert time.monotonic() - started < 6


def test_sigterm_while_loading_ends_the_process(artifact: Artifact, tmp_path: Path) -> None:
    with serving(serve_config(artifact), tmp_path) as server:
        server.wait_bound()
        server.terminate()
        assert server.wait_exit(15) == 0
