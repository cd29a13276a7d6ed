"""How many servers a load needs: a stable and a panic window as in Knative's autoscaler (KPA). Pure.

The stable window's mean decides; a panic window of a tenth decides alone where it asks for twice what there is, and
then nothing is taken away. Fewer servers only after fewer have sufficed for `scaleDownDelaySeconds`.
https://knative.dev/docs/serving/autoscaling/kpa-specific/
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard_operator.load import Load, Sample
from modelyard_operator.service.scaling_spec import Scaling

STABLE_SECONDS = 60.0
PANIC_SECONDS = 6.0
PANIC_FACTOR = 2.0
TOLERANCE = 1e-6
_DELAY_STEPS = 30


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A number of servers and the word for why."""

    replicas: int
    reason: str
    message: str


def decide(scaling: Scaling, load: Load | None, current: int, now: datetime) -> Decision:
    """The servers that the load needs. What is not measured changes nothing: a fresh operator waits for figures."""
    low, high = scaling.min_replicas, max(scaling.max_replicas, scaling.min_replicas)
    if current == 0:
        return _from_zero(scaling, load, low, high)
    if current < low or current > high:
        return Decision(replicas=min(max(current, low), high), reason="WithinBounds", message=f"{low} to {high}")
    if low == 0 and _is_idle(scaling, load):
        return Decision(replicas=0, reason="Idle", message=f"no request for {scaling.idle_seconds} s")
    wanted, reason, message = _by_load(scaling, load, current, now)
    replicas = min(max(wanted, low, 1), high)
    if wanted > high:
        reason, message = "AtMaximum", f"{message}; maxReplicas is {high}"
    return Decision(replicas=replicas, reason=reason, message=message)


def _from_zero(scaling: Scaling, load: Load | None, low: int, high: int) -> Decision:
    router = load.router if load is not None else None
    waiting = router.held + router.in_flight if router is not None else 0
    if low == 0 and not waiting:
        return Decision(replicas=0, reason="Idle", message="no request waits")
    wanted = math.ceil(waiting / scaling.target) if scaling.metric == "concurrency" else 1
    return Decision(replicas=min(max(wanted, low, 1), high), reason="Woken", message=f"{waiting} requests wait")


def _is_idle(scaling: Scaling, load: Load | None) -> bool:
    router = load.router if load is not None else None
    if router is None:
        return False
    return not router.held and not router.in_flight and router.idle_seconds >= scaling.idle_seconds


def _by_load(scaling: Scaling, load: Load | None, current: int, now: datetime) -> tuple[int, str, str]:
    samples = load.samples if load is not None else ()
    if not samples or now - samples[-1].time > timedelta(seconds=PANIC_SECONDS):
        return current, "NoMeasurements", "the servers' load is not known"
    stable = _wanted(samples, scaling, now, STABLE_SECONDS)
    panic = _wanted(samples, scaling, now, PANIC_SECONDS)
    told = f"{scaling.metric} {_mean(samples, scaling.metric, now, STABLE_SECONDS):.3g}, target {scaling.target:g}"
    covered = (now - samples[0].time).total_seconds()
    if panic >= PANIC_FACTOR * current and covered >= PANIC_SECONDS / 2:
        return panic, "Burst", told
    if stable > current and covered >= PANIC_SECONDS:
        return stable, "MoreLoad", told
    if stable >= current or covered < min(STABLE_SECONDS, scaling.scale_down_delay_seconds + PANIC_SECONDS):
        return current, "OnTarget", told
    most = _most_wanted(samples, scaling, now)
    return (most, "LessLoad", told) if most < current else (current, "OnTarget", told)


def _most_wanted(samples: Sequence[Sample], scaling: Scaling, now: datetime) -> int:
    """The most servers that the stable window asked for at any time of the delay."""
    delay = scaling.scale_down_delay_seconds
    moments = [now - timedelta(seconds=delay * step / _DELAY_STEPS) for step in range(_DELAY_STEPS + 1)]
    known = [moment for moment in moments if moment >= samples[0].time] or [now]
    return max(_wanted(samples, scaling, moment, STABLE_SECONDS) for moment in known)


def _wanted(samples: Sequence[Sample], scaling: Scaling, now: datetime, window: float) -> int:
    return math.ceil(_mean(samples, scaling.metric, now, window) / scaling.target - TOLERANCE)


def _mean(samples: Sequence[Sample], metric: str, now: datetime, window: float) -> float:
    """The mean of all servers' sum over a window that ends at `now`; the newest sample where none lies in it."""
    begin = now - timedelta(seconds=window)
    inside = [float(getattr(s, metric)) for s in samples if begin < s.time <= now]
    if inside:
        return sum(inside) / len(inside)
    earlier = [float(getattr(s, metric)) for s in samples if s.time <= now]
    return earlier[-1] if earlier else 0.0
