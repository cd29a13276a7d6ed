"""A training as a run of MLflow, where MLFLOW_TRACKING_URI names a tracking server: parameters, metrics, how it ended.

Spoken over HTTP, so that no image needs the package. The run is found by the training's uid.

The variables are MLflow's own: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, MLFLOW_TRACKING_USERNAME and _PASSWORD,
MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_INSECURE_TLS. https://mlflow.org/docs/latest/api_reference/rest-api.html
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import requests

from modelyard_workloads.config import TrainingConfig
from modelyard_workloads.exits import Ending
from modelyard_workloads.tracked_run import Point, TrackedRun

logger = logging.getLogger(__name__)

URI = "MLFLOW_TRACKING_URI"
_SECONDS = 10.0
_LONGEST = 500
"""Characters of a parameter's value; older servers take no more."""
_UID = "modelyard.uid"
_STATUSES: dict[Ending, str] = {"complete": "FINISHED", "stopped": "SCHEDULED", "failed": "FAILED"}
"""A later attempt makes RUNNING of it again."""


class MlflowError(Exception):
    """The server did not do what it was asked."""


class MlflowRun(TrackedRun):
    """The run on a tracking server."""

    tracker = "MLflow"

    def __init__(self, config: TrainingConfig, environment: Mapping[str, str]) -> None:
        self._config = config
        self._server = _Server(environment)
        self._experiment = environment.get("MLFLOW_EXPERIMENT_NAME") or "modelyard"
        self._run = ""
        super().__init__()

    @classmethod
    def wanted(cls, config: TrainingConfig, environment: Mapping[str, str]) -> MlflowRun | None:
        """None where no tracking server is named, or one that cannot be asked over HTTP."""
        uri = environment.get(URI, "")
        if uri.startswith(("http://", "https://")):
            return cls(config, environment)
        if uri:
            logger.warning("%s does not begin with http:// or https://: no other places are told", URI)
        return None

    def begin(self) -> None:
        """Raises MlflowError, and what requests raises; so do the others."""
        training = self._config.training
        experiment = self._experiment_id()
        wanted = f"tags.`{_UID}` = '{training.uid}'"
        found = self._server.post("runs/search", experiment_ids=[experiment], filter=wanted, max_results=1).get("runs")
        if found:
            self._run = str(found[0]["info"]["run_id"])
            self._server.post("runs/update", run_id=self._run, status="RUNNING")
            return
        tags = {_UID: training.uid, "modelyard.namespace": training.namespace, "modelyard.task": self._config.task}
        made = self._server.post(
            "runs/create",
            experiment_id=experiment,
            run_name=training.name,
            start_time=_now(),
            tags=[{"key": key, "value": value} for key, value in tags.items()],
        )
        self._run = str(made["run"]["info"]["run_id"])
        given = self._config.parameters.model_dump(by_alias=True, mode="json")
        told = [{"key": name, "value": str(value)[:_LONGEST]} for name, value in given.items() if value is not None]
        self._server.post("runs/log-batch", run_id=self._run, params=told[:100])

    def tell(self, points: Sequence[Point]) -> None:
        metrics = [
            {"key": name, "value": value, "timestamp": _now(), "step": step}
            for step, values in points
            for name, value in values.items()
        ]
        self._server.post("runs/log-batch", run_id=self._run, metrics=metrics)

    def finish(self, ending: Ending) -> None:
        ended = {} if ending == "stopped" else {"end_time": _now()}
        self._server.post("runs/update", run_id=self._run, status=_STATUSES[ending], **ended)

    def described(self, error: Exception) -> str:
        """The text of a connection's error may hold the address with its password."""
        return str(error) if isinstance(error, MlflowError) else super().described(error)

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
