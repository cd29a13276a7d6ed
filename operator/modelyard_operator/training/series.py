"""The Prometheus series of the trainings there are, made from their status. Pure: none is kept, so none is left over.

Labels are bounded: an object's namespace and name, and words of ours. A training that another controller manages has
a status of its own kind, and what is not in it has no series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from modelyard_operator import conditions
from modelyard_operator.objects import parse_time
from modelyard_operator.plan import Object
from modelyard_operator.training.goodput import CAUSES

_NAMES = ("namespace", "name")
_Status = dict[str, Any]
_VALUES: tuple[tuple[str, str, Callable[[_Status], Any]], ...] = (
    ("restarts", "Restarts of the whole gang.", lambda s: s.get("restarts") or 0),
    ("attempt", "The current attempt, from 1.", lambda s: s.get("attempt")),
    ("progress_ratio", "Done, 0 to 1.", lambda s: _scaled(_in(s, "progress", "percentage"))),
    ("eta_seconds", "Estimated seconds to the end.", lambda s: _in(s, "progress", "estimatedRemainingSeconds")),
    ("step", "Optimizer steps done, as reported.", lambda s: _in(s, "progress", "step")),
    ("loss", "The last loss that was reported.", lambda s: _number((_in(s, "progress", "metrics") or {}).get("loss"))),
    ("samples_per_second", "Throughput of all nodes.", lambda s: _in(s, "progress", "samplesPerSecond")),
    ("step_seconds", "Seconds for one optimizer step.", lambda s: _in(s, "progress", "stepSeconds")),
    ("nodes", "Nodes of the current attempt.", lambda s: _in(s, "nodes", "desired")),
    ("nodes_ready", "Nodes that run.", lambda s: _in(s, "nodes", "ready")),
    ("checkpoint_step", "The step of the newest complete checkpoint.", lambda s: _in(s, "checkpoint", "step")),
    ("checkpoint_save_seconds", "Seconds it took to write.", lambda s: _in(s, "checkpoint", "saveSeconds")),
    ("goodput_ratio", "Productive to elapsed time.", lambda s: _in(s, "goodput", "ratio")),
)


def series(trainings: Iterable[Object], now: datetime) -> Iterator[Metric]:
    """All families; those of one object are there as long as it is."""
    values = [(_gauge(name, text), read) for name, text, read in _VALUES]
    info = _gauge("info", "1; the bundled trainer, or image.", "trainer")
    phase = _gauge("phase", "1 for the phase a training is in.", "phase")
    age = _gauge("checkpoint_age_seconds", "How old the newest complete checkpoint of an unfinished training is.")
    lost = _gauge("lost_seconds", "Time that was not productive, by cause.", "cause")
    for training in trainings:
        meta, status = training["metadata"], training.get("status") or {}
        labels = (meta["namespace"], meta["name"])
        info.add_metric((*labels, _in(status, "display", "trainer") or "unknown"), 1)
        phase.add_metric((*labels, status.get("phase") or "Pending"), 1)
        for gauge, read in values:
            value = read(status)
            if value is not None:
                gauge.add_metric(labels, value)
        saved = parse_time(_in(status, "checkpoint", "time"))
        if saved is not None and not conditions.is_true(status, "Finished"):
            age.add_metric(labels, max(0.0, (now - saved).total_seconds()))
        for cause in CAUSES:
            seconds = _in(status, "goodput", f"{cause}Seconds")
            if cause != "productive" and seconds is not None:
                lost.add_metric((*labels, cause), seconds)
    yield from (info, phase, *(gauge for gauge, _ in values), age, lost)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"modelyard_training_{name}", text, labels=(*_NAMES, *labels))


def _in(status: _Status, part: str, field: str) -> Any:
    return (status.get(part) or {}).get(field)


def _scaled(percentage: float | None) -> float | None:
    return None if percentage is None else percentage / 100


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
