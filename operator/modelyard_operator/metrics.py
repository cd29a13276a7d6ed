"""The operator's Prometheus metrics: its own health first, then one small set of series per custom resource.

The queue's and the reconciler's series mean what their namesakes of controller-runtime mean. Series that carry the
name of an object are made from the observed objects at each scrape: they cost no memory, and go when the object goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from modelyard_operator.objects import SERVICE, TRAINING
from modelyard_operator.plan import Key, Object

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

API_SECONDS = Histogram(
    "modelyard_api_request_seconds",
    "Time of the operator's requests to the API server.",
    ("verb", "resource"),
    buckets=_FAST,
    registry=REGISTRY,
)
API_REQUESTS = Counter(
    "modelyard_api_requests",
    "The operator's requests to the API server; code 0 is an unreachable server.",
    ("verb", "resource", "code"),
    registry=REGISTRY,
)
RECONCILE_SECONDS = Histogram(
    "modelyard_reconcile_seconds", "Time of one reconcile.", ("kind",), buckets=_FAST, registry=REGISTRY
)
RECONCILE_ERRORS = Counter(
    "modelyard_reconcile_errors", "Reconciles that failed and are retried with back-off.", ("kind",), registry=REGISTRY
)
QUEUE_DEPTH = Gauge("modelyard_workqueue_depth", "Keys that wait for a worker.", registry=REGISTRY)
LEADER = Gauge("modelyard_leader", "1 while this replica holds the lease and reconciles.", registry=REGISTRY)
WATCH_EVENTS = Counter("modelyard_watch_events", "Events received by the watches.", ("kind",), registry=REGISTRY)
WATCH_LAG = Gauge(
    "modelyard_watch_lag_seconds",
    "For how long the watch of a kind has been behind a direct listing; 0 is healthy.",
    ("kind",),
    registry=REGISTRY,
)
EVENTS_DROPPED = Counter("modelyard_events_dropped", "Kubernetes Events not recorded, by the limit.", registry=REGISTRY)

TRAINING_FINISHED = Counter(
    "modelyard_training_finished", "Trainings that ended, by result.", ("namespace", "result"), registry=REGISTRY
)

_OBJECT = ("namespace", "name")
_PROGRESS = (
    ("modelyard_training_progress_ratio", "Done, 0 to 1.", "percentage", 0.01),
    ("modelyard_training_eta_seconds", "Estimated seconds to the end.", "estimatedRemainingSeconds", 1.0),
    ("modelyard_training_step", "Optimizer steps done, as reported.", "step", 1.0),
)


class ObjectCollector(Collector):
    """The series of the custom resources, made from their status when they are asked for: none is kept."""

    def __init__(self, objects: Callable[[str], Iterable[Object]]) -> None:
        self._objects = objects

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect once to learn the names

    def collect(self) -> Iterable[Metric]:
        phase = _gauge("modelyard_training_phase", "1 for the phase a training is in.", "phase")
        restarts = _gauge("modelyard_training_restarts", "Restarts of the whole gang.")
        progress = [(_gauge(name, text), field, scale) for name, text, field, scale in _PROGRESS]
        for labels, status in self._statuses(TRAINING):
            phase.add_metric((*labels, status.get("phase") or "Pending"), 1)
            restarts.add_metric(labels, status.get("restarts") or 0)
            told = status.get("progress") or {}
            for gauge, field, scale in progress:
                if told.get(field) is not None:
                    gauge.add_metric(labels, told[field] * scale)
        ready = _gauge("modelyard_service_ready", "1 while a ModelService is Ready.")
        replicas = _gauge("modelyard_service_ready_replicas", "Ready server pods.")
        for labels, status in self._statuses(SERVICE):
            is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
            ready.add_metric(labels, is_ready)
            replicas.add_metric(labels, status.get("readyReplicas") or 0)
        yield from (phase, restarts, *(gauge for gauge, _, _ in progress), ready, replicas)

    def _statuses(self, kind: str) -> Iterator[tuple[tuple[str, str], Object]]:
        for obj in self._objects(kind):
            meta = obj["metadata"]
            yield (meta["namespace"], meta["name"]), obj.get("status") or {}


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=(*_OBJECT, *labels))


def observe_api_call(verb: str, resource: str, code: int, started: float) -> None:
    """Count one API call that began at `started` (monotonic seconds)."""
    API_SECONDS.labels(verb, resource).observe(monotonic() - started)
    API_REQUESTS.labels(verb, resource, str(code)).inc()


def observe_status(key: Key, before: Object, after: Object) -> None:
    """Count a training that has just ended, by the status that was written."""
    result = after.get("phase")
    if key.kind == TRAINING and result in ("Succeeded", "Failed") and before.get("phase") != result:
        TRAINING_FINISHED.labels(key.namespace, result).inc()
