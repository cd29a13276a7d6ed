"""The operator's Prometheus metrics: its own health first, then one small set of series per custom resource.

The queue's and the reconciler's series mean what their namesakes of controller-runtime mean. Series that carry the
name of an object go when the object goes (`forget`).
"""

from __future__ import annotations

from time import monotonic

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from modelyard_operator.objects import TRAINING
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

PHASES = ("Pending", "Queued", "Suspended", "Scheduled", "Running", "Restarting", "Stalled", "Succeeded", "Failed")
_OBJECT = ("namespace", "name")
TRAINING_PHASE = Gauge(
    "modelyard_training_phase", "1 for the phase a training is in.", (*_OBJECT, "phase"), registry=REGISTRY
)
TRAINING_PROGRESS = Gauge("modelyard_training_progress_ratio", "Done, 0 to 1.", _OBJECT, registry=REGISTRY)
TRAINING_ETA = Gauge("modelyard_training_eta_seconds", "Estimated seconds to the end.", _OBJECT, registry=REGISTRY)
TRAINING_STEP = Gauge("modelyard_training_step", "Optimizer steps done, as reported.", _OBJECT, registry=REGISTRY)
TRAINING_RESTARTS = Gauge("modelyard_training_restarts", "Restarts of the whole gang.", _OBJECT, registry=REGISTRY)
TRAINING_FINISHED = Counter(
    "modelyard_training_finished", "Trainings that ended, by result.", ("namespace", "result"), registry=REGISTRY
)
SERVICE_READY = Gauge("modelyard_service_ready", "1 while a ModelService is Ready.", _OBJECT, registry=REGISTRY)
SERVICE_REPLICAS = Gauge("modelyard_service_ready_replicas", "Ready server pods.", _OBJECT, registry=REGISTRY)


def observe_api_call(verb: str, resource: str, code: int, started: float) -> None:
    """Count one API call that began at `started` (monotonic seconds)."""
    API_SECONDS.labels(verb, resource).observe(monotonic() - started)
    API_REQUESTS.labels(verb, resource, str(code)).inc()


def publish(key: Key, status: Object) -> None:
    """Set the series of one custom resource from the status just observed or written."""
    labels = (key.namespace, key.name)
    if key.kind != TRAINING:
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
        SERVICE_READY.labels(*labels).set(ready)
        SERVICE_REPLICAS.labels(*labels).set(status.get("readyReplicas") or 0)
        return
    for phase in PHASES:
        if phase == status.get("phase"):
            TRAINING_PHASE.labels(*labels, phase).set(1)
        else:
            _remove(TRAINING_PHASE, *labels, phase)
    progress = status.get("progress") or {}
    TRAINING_RESTARTS.labels(*labels).set(status.get("restarts") or 0)
    for gauge, name, scale in (
        (TRAINING_PROGRESS, "percentage", 0.01),
        (TRAINING_ETA, "estimatedRemainingSeconds", 1.0),
        (TRAINING_STEP, "step", 1.0),
    ):
        if progress.get(name) is not None:
            gauge.labels(*labels).set(progress[name] * scale)


def forget(key: Key) -> None:
    """Drop the series of a custom resource that is gone."""
    labels = (key.namespace, key.name)
    for phase in PHASES:
        _remove(TRAINING_PHASE, *labels, phase)
    for gauge in (TRAINING_PROGRESS, TRAINING_ETA, TRAINING_STEP, TRAINING_RESTARTS, SERVICE_READY, SERVICE_REPLICAS):
        _remove(gauge, *labels)


def _remove(gauge: Gauge, *labels: str) -> None:
    # prometheus_client logs nothing and raises nothing for a series that is not there.
    gauge.remove(*labels)
