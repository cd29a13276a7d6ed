"""One look at everything that the live view shows, and the last look at what only exists while the training runs."""

from dataclasses import dataclass, field
from typing import Any

from demo.api import Api, ApiError
from demo.installation import NAMESPACE
from demo.samples import NAME
from demo.trainerlog import History, read_history

_RESOURCES = f"/apis/modelyard.dev/v1alpha1/namespaces/{NAMESPACE}"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
_SELECTOR = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dmodelyard"


@dataclass(frozen=True)
class Snapshot:
    """Both resources (None while there is none), our pods, and what rank 0 has said so far."""

    training: dict[str, Any] | None = None
    service: dict[str, Any] | None = None
    pods: list[dict[str, Any]] = field(default_factory=list)
    history: History = field(default_factory=History)


class Observer:
    """Looks again and again; keeps the trainer's metrics of the last look at which they were served."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._history = History()
        self.trainer_metrics = ""

    def look(self) -> Snapshot:
        """Raises ApiError when the API server does not answer."""
        training, service = (self._named(kind) for kind in ("modeltrainings", "modelservices"))
        pods = self._api.items(f"{_PODS}?{_SELECTOR}")
        main = self._main_pod(training, pods)
        if main is not None and self._has_started(main):
            self._read(main)
        return Snapshot(training, service, pods, self._history)

    def _named(self, plural: str) -> dict[str, Any] | None:
        query = f"fieldSelector=metadata.name%3D{NAME}"
        items = self._api.items(f"{_RESOURCES}/{plural}?{query}")
        return items[0] if items else None

    def _read(self, pod: dict[str, Any]) -> None:
        path = f"{_PODS}/{pod['metadata']['name']}"
        try:
            self._history = read_history(self._api.text(f"{path}/log?container=trainer").splitlines())
            if pod["status"]["phase"] == "Running":
                found = self._api.text(f"{path}:9400/proxy/metrics")
                self.trainer_metrics = found if "modelyard_training_step" in found else self.trainer_metrics
        except ApiError:
            pass  # a pod that just started, or just ended; the next look tells

    @staticmethod
    def _has_started(pod: dict[str, Any]) -> bool:
        return pod["status"].get("phase") in ("Running", "Succeeded", "Failed")

    @staticmethod
    def _main_pod(training: dict[str, Any] | None, pods: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Rank 0 of the current attempt."""
        attempt = ((training or {}).get("status") or {}).get("attempt")
        wanted = f"{NAME}-{attempt}-0"
        return next((pod for pod in pods if pod["metadata"]["name"] == wanted), None)
