"""A training as a run of MLflow, where MLFLOW_TRACKING_URI names a tracking server: parameters, metrics, how it ended.

Spoken over HTTP by a thread of rank 0's, so that no image needs the package and no step waits; a server that is away
costs points, never the training. All attempts of a training are one run, found by its uid.

The variables are MLflow's own: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, MLFLOW_TRACKING_USERNAME and _PASSWORD,
MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_INSECURE_TLS. https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import requests

from modelyard_workloads.config import TrainingConfig

logger = logging.getLogger(__name__)

URI = "MLFLOW_TRACKING_URI"
_SECONDS = 10.0
_WAITING = 1000
"""Points that wait for a slow server; what comes on top is left out."""
_CLOSING_SECONDS = 15.0
_TOGETHER = 50
"""Points in a request; the API takes 1,000 metrics."""
_LONGEST = 500
"""Characters of a parameter's value; older servers take no more."""
_UID = "modelyard.uid"

Point = tuple[int, dict[str, float]]


class MlflowError(Exception):
    """The server did not do what it was asked."""


class MlflowRun:
    """One attempt's part of the run. `draw` and `close` never raise and hardly wait."""

    def __init__(self, config: TrainingConfig, environment: Mapping[str, str]) -> None:
        self._config = config
        self._server = _Server(environment)
        self._experiment = environment.get("MLFLOW_EXPERIMENT_NAME") or "modelyard"
        self._points: queue.Queue[Point | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    @classmethod
    def wanted(cls, config: TrainingConfig, environment: Mapping[str, str]) -> MlflowRun | None:
        """None where no tracking server is named, or one that cannot be asked over HTTP."""
        uri = environment.get(URI, "")
        if uri.startswith(("http://", "https://")):
            return cls(config, environment)
        if uri:
            logger.warning("%s does not begin with http:// or https://: no other places are told", URI)
        return None

    def draw(self, step: int, values: Mapping[str, float]) -> None:
        """One point of every curve."""
        with suppress(queue.Full):
            self._points.put_nowait((step, dict(values)))

    def close(self) -> None:
        """Say that the training is complete, and wait for what is still to be told, but not for ever."""
        try:
            self._points.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(_CLOSING_SECONDS)

    def _work(self) -> None:
        try:
            run = self._run()
            while (point := self._points.get()) is not None:
                self._tell(run, [point, *self._more()])
            self._server.post("runs/update", run_id=run, status="FINISHED", end_time=_now())
        except (requests.RequestException, MlflowError) as error:
            # The text of a connection's error may hold the address with its password.
            told = str(error) if isinstance(error, MlflowError) else type(error).__name__
            logger.warning("MLflow is told no more of this attempt: %s", told)

    def _more(self) -> list[Point]:
        """What else waits already, but for the end."""
        points: list[Point] = []
        while len(points) + 1 < _TOGETHER and not self._points.empty() and self._points.queue[0] is not None:
            points.append(self._points.get())  # type: ignore[arg-type]
        return points

    def _tell(self, run: str, points: list[Point]) -> None:
        metrics = [
            {"key": name, "value": value, "timestamp": _now(), "step": step}
            for step, values in points
            for name, value in values.items()
            if math.isfinite(value)
        ]
        self._server.post("runs/log-batch", run_id=run, metrics=metrics)

    def _run(self) -> str:
        """The run of this training: the one of an earlier attempt, or a new one."""
        training = self._config.training
        experiment = self._experiment_id()
        wanted = f"tags.`{_UID}` = '{training.uid}'"
        found = self._server.post("runs/search", experiment_ids=[experiment], filter=wanted, max_results=1).get("runs")
        if found:
            run = str(found[0]["info"]["run_id"])
            self._server.post("runs/update", run_id=run, status="RUNNING")
            return run
        tags = {_UID: training.uid, "modelyard.namespace": training.namespace, "modelyard.task": self._config.task}
        made = self._server.post(
            "runs/create",
            experiment_id=experiment,
            run_name=training.name,
            start_time=_now(),
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        run = str(made["run"]["info"]["run_id"])
        given = self._config.parameters.model_dump(by_alias=True, mode="json")
        told = [{"key": name, "value": str(value)[:_LONGEST]} for name, value in given.items() if value is not None]
        self._server.post("runs/log-batch", run_id=run, params=told[:100])
        return run

    def _experiment_id(self) -> str:
        try:
            known = self._server.get("experiments/get-by-name", experiment_name=self._experiment)
            return str(known["experiment"]["experiment_id"])
        except MlflowError:
            return str(self._server.post("experiments/create", name=self._experiment)["experiment_id"])


class _Server:
    """A tracking server."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._url = environment[URI].rstrip("/") + "/api/2.0/mlflow/"
        self._session = requests.Session()
        self._session.verify = environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() != "true"
        if token := environment.get("MLFLOW_TRACKING_TOKEN"):
            self._session.headers["Authorization"] = f"Bearer {token}"
        elif user := environment.get("MLFLOW_TRACKING_USERNAME"):
            self._session.auth = (user, environment.get("MLFLOW_TRACKING_PASSWORD", ""))

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Raises MlflowError, and what requests raises."""
        return _answer(path, self._session.post(self._url + path, json=body, timeout=_SECONDS))

    def get(self, path: str, **query: str) -> dict[str, Any]:
        """Likewise."""
        return _answer(path, self._session.get(self._url + path, params=query, timeout=_SECONDS))


def _answer(path: str, reply: requests.Response) -> dict[str, Any]:
    if reply.status_code >= 400:
        raise MlflowError(f"{path} was answered with {reply.status_code}: {reply.text[:200]}")
    answer: dict[str, Any] = reply.json()
    return answer


def _now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
