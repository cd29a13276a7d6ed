"""The operator's Prometheus metrics: its own health first, then one small set of series per custom resource.

The queue's and the reconciler's series mean what their namesakes of controller-runtime mean. Series that carry the
name of an object are made from the observed objects at each scrape: they cost no memory, and go when the object goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
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

TRAINING_CREATED = Counter(
    "modelyard_training_created", "Trainings seen for the first time.", ("namespace", "trainer"), registry=REGISTRY
)
TRAINING_FINISHED = Counter(
    "modelyard_training_finished",
    "Trainings that ended, by result and by the condition's reason.",
    ("namespace", "trainer", "result", "reason"),
    registry=REGISTRY,
)
TRAINING_FAILURES = Counter(
    "modelyard_training_failures",
    "Attempts that failed, by the rule that decided what then; `rules` are the users' own.",
    ("namespace", "rule"),
    registry=REGISTRY,
)
_WAITS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400)
TRAINING_QUEUE_SECONDS = Histogram(
    "modelyard_training_queue_seconds",
    "How long trainings waited for a place before they ran for the first time.",
    ("trainer",),
    buckets=_WAITS,
    registry=REGISTRY,
)
TRAINING_STARTUP_SECONDS = Histogram(
    "modelyard_training_startup_seconds",
    "How long their pods then took to start.",
    ("trainer",),
    buckets=_WAITS,
    registry=REGISTRY,
)
_RULES = frozenset(
    (
        *("checkpointed", "infrastructure", "configuration", "startup", "default", "onOOM", "permanent", "retryable"),
        *("maxRestarts", "maxNoProgressRestarts", "activeDeadlineSeconds"),
    )
)


class ObjectCollector(Collector):
    """The series of the custom resources, made from their status when they are asked for: none is kept."""

    def __init__(
        self,
        objects: Callable[[str], Iterable[Object]],
        trainings: Callable[[Iterable[Object], datetime], Iterable[Metric]],
    ) -> None:
        self._objects = objects
        self._trainings = trainings

    def describe(self) -> Iterable[Metric]:
        return ()  # else the registry would collect once to learn the names

    def collect(self) -> Iterable[Metric]:
        yield from self._trainings(self._objects(TRAINING), datetime.now(UTC))
        ready = _gauge("modelyard_service_ready", "1 while a ModelService is Ready.")
        replicas = _gauge("modelyard_service_ready_replicas", "Ready server pods.")
        for obj in self._objects(SERVICE):
            labels, status = (obj["metadata"]["namespace"], obj["metadata"]["name"]), obj.get("status") or {}
            is_ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
            ready.add_metric(labels, is_ready)
            replicas.add_metric(labels, status.get("readyReplicas") or 0)
        yield from (ready, replicas)


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=("namespace", "name"))


def observe_api_call(verb: str, resource: str, code: int, started: float) -> None:
    """Count one API call that began at `started` (monotonic seconds)."""
    API_SECONDS.labels(verb, resource).observe(monotonic() - started)
    API_REQUESTS.labels(verb, resource, str(code)).inc()


def observe_status(key: Key, before: Object, after: Object) -> None:
    """Count what has just happened to a training, by the status that was written."""
    if key.kind != TRAINING:
        return
    trainer = (after.get("display") or {}).get("trainer")
    if trainer is None:
        return  # its spec was refused
    if not before.get("display"):
        TRAINING_CREATED.labels(key.namespace, trainer).inc()
    if "startTime" in after and "startTime" not in before and after.get("attempt") == 1:
        spent = after.get("goodput") or {}
        TRAINING_QUEUE_SECONDS.labels(trainer).observe(spent.get("queuedSeconds", 0.0))
        TRAINING_STARTUP_SECONDS.labels(trainer).observe(spent.get("startupSeconds", 0.0))
    failure = after.get("lastFailure") or {}
    if failure and failure != before.get("lastFailure"):
        rule = failure.get("rule", "")
        TRAINING_FAILURES.labels(key.namespace, rule if rule in _RULES else "rules").inc()
    result = after.get("phase")
    if result in ("Succeeded", "Failed") and before.get("phase") != result:
        reason = next((c["reason"] for c in after.get("conditions") or () if c["type"] == "Finished"), "")
        TRAINING_FINISHED.labels(key.namespace, trainer, result, reason).inc()
