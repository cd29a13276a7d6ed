"""The only module that imports kopf, and it uses it as an event source: no handlers that keep state, so no
finalizers, no annotations and no writes of the framework's own. Every event ends in `store` and on the work queue.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from typing import Any, cast

import kopf

from modelyard_operator import metrics
from modelyard_operator.objects import GROUP, MANAGED_SELECTOR, SERVICE, TRAINING, VERSION
from modelyard_operator.plan import Key
from modelyard_operator.store import Store
from modelyard_operator.workqueue import WorkQueue

_WATCHED: tuple[tuple[str, tuple[str, str, str]], ...] = (
    (TRAINING, (GROUP, VERSION, "modeltrainings")),
    (SERVICE, (GROUP, VERSION, "modelservices")),
    ("Pod", ("", "v1", "pods")),
    ("Service", ("", "v1", "services")),
    ("PersistentVolumeClaim", ("", "v1", "persistentvolumeclaims")),
    ("Deployment", ("apps", "v1", "deployments")),
    ("Ingress", ("networking.k8s.io", "v1", "ingresses")),
    ("PodDisruptionBudget", ("policy", "v1", "poddisruptionbudgets")),
    ("HorizontalPodAutoscaler", ("autoscaling", "v2", "horizontalpodautoscalers")),
)
WATCHED_KINDS = tuple(kind for kind, _ in _WATCHED)


class _NoDiffBase(kopf.DiffBaseStorage):
    """What kopf keeps in objects to tell what changed in them: nothing. Else it copies every object of every event."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("an event source writes nothing")


class _NoProgress(kopf.ProgressStorage):
    """What kopf keeps in objects of how far its handlers are: nothing; likewise."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("an event source writes nothing")

    def purge(self, **_: Any) -> None: ...

    def touch(self, **_: Any) -> None: ...

    def clear(self, *, essence: Any) -> Any:
        return essence


class Watch:
    """The watches of the operator, on all namespaces or on those named."""

    def __init__(self, store: Store, queue: WorkQueue[Key], kubeconfig: str | None) -> None:
        self._store = store
        self._queue = queue
        self._registry = kopf.OperatorRegistry()
        if kubeconfig:
            os.environ["KUBECONFIG"] = kubeconfig  # the only way to tell kopf's login which file it is
        login = kopf.login_with_kubeconfig if kubeconfig else kopf.login_with_service_account
        kopf.on.login(registry=self._registry, id="login", retries=3)(login)
        for kind, (group, version, plural) in _WATCHED:
            kopf.on.event(group, version, plural, id=f"watch-{plural}", registry=self._registry)(self._receiver(kind))

    async def run(self, namespaces: Sequence[str], stop: asyncio.Event) -> None:
        """Watch until `stop`; returns or raises when a watch ends for good, and the process must end with it."""
        logging.getLogger("kopf").setLevel(logging.WARNING)
        await kopf.operator(
            registry=self._registry,
            settings=_settings(),
            identity=cast(Any, "modelyard-operator"),  # of no use alone, but kopf would look up a user that images lack
            standalone=True,
            clusterwide=not namespaces,
            namespaces=list(namespaces),
            stop_flag=stop,
        )

    def _receiver(self, kind: str) -> Any:
        async def receive(event: Any, **_: Any) -> None:
            metrics.WATCH_EVENTS.labels(kind).inc()
            body = event["object"]
            change = self._store.remove if event["type"] == "DELETED" else self._store.put
            for key in change(kind, dict(body)):
                self._queue.add(key)

        return receive


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # Events are recorded by ours, which aggregates
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.scanning.disabled = True  # no rights on namespaces and CRDs are needed
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 250
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = 70  # bookmarks come every minute
    settings.networking.request_timeout = 30
    settings.process.ultimate_exiting_timeout = 10
    settings.queueing.exit_timeout = 1
    settings.queueing.idle_timeout = 0.1  # kopf keeps the last event of an object, 50 kB of a pod, for so long
    for kind, (group, version, plural) in _WATCHED:
        if kind not in (TRAINING, SERVICE):
            settings.watching.label_selectors[group, version, plural] = MANAGED_SELECTOR
    return settings
