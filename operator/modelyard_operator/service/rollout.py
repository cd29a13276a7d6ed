"""Which revision has the requests: golden gate, canary, shadow, and their verdicts. Pure.

A new revision gets nothing before all its pods are available. Then RollingUpdate gives it everything at once; Canary
gives it shares, one step after the other; Shadow gives it copies, whose answers nobody gets. Each step, and the
verdict, stands in `status.canary` before it is acted upon: the status is the write-ahead log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from modelyard_operator.load import Load, RouterLoad, Traffic
from modelyard_operator.objects import content_hash, format_time, parse_time
from modelyard_operator.plan import Event, Object
from modelyard_operator.service.spec import ModelServiceSpec
from modelyard_operator.service.traffic_spec import Analysis, RolloutStep

DEFAULT_STEPS = (RolloutStep(percent=10, pause_seconds=60), RolloutStep(percent=50, pause_seconds=60))
P99_REQUESTS = 100
"""The slowest hundredth of fewer requests is a single one, which says nothing."""
P99_SLACK_MILLISECONDS = 5.0
"""A revision is not slow for less than this, whatever the ratio."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """Revisions and who has the traffic."""

    revision: str | None
    """The revision of the spec as it is now; None while no model is resolved."""
    serving: str | None
    """The revision that answers, or that answers most while a canary is under way."""
    ready: bool
    """Whether all pods of `revision` are available and it has all the traffic."""
    shares: tuple[tuple[str, int], ...] = ()
    """Percent of the requests by revision, the baseline first."""
    mirror: str | None = None
    """The revision that gets copies of the requests."""
    canary: Object | None = None
    """`status.canary`."""
    decided: bool = False
    """Whether `canary` holds a new decision, to be written before anything is done."""
    event: Event | None = None

    @property
    def table(self) -> str:
        """The name of the routing table: what routers must have taken up before their counts mean anything."""
        return content_hash([list(self.shares), self.mirror])

    @property
    def is_split(self) -> bool:
        """Whether more than one revision gets requests, so that somebody must divide them."""
        return len(self.shares) > 1 or self.mirror is not None

    @property
    def rolled_back(self) -> bool:
        told = self.canary
        mine = told is not None and told["revisionName"] == self.revision and told["verdict"] == "RolledBack"
        return mine and self.serving != self.revision


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a rollout is decided by."""

    available: Mapping[str, bool]
    """Whether all pods of a revision are available, for each that there is."""
    failure: str
    """Why a pod of the new revision does not serve; empty where all do."""
    load: Load | None
    now: datetime


def plan_rollout(spec: ModelServiceSpec, before: Object, revision: str | None, observed: Observed) -> Rollout:
    """Who has the traffic now, and what was decided. `before` is the status observed."""
    traffic = before.get("traffic") or []
    last = traffic[0]["revisionName"] if traffic else None
    canary = before.get("canary")
    if revision is None:
        serving = last if last in observed.available else None
        return _settled(revision, serving, ready=False, canary=canary)
    if spec.suspend:
        return _held(revision, last if last and last in observed.available else revision, canary)
    available = observed.available.get(revision, False)
    if last not in observed.available or last == revision:
        return _settled(revision, revision, ready=available, canary=canary)
    assert last is not None
    mine = canary if canary is not None and canary.get("revisionName") == revision else None
    if spec.rollout.strategy == "RollingUpdate":
        # whoever asks for this no longer asks what a canary of the revision found
        told = canary if mine is None else None
        return _settled(revision, revision if available else last, ready=available, canary=told)
    if mine is not None and mine["verdict"] == "Promoted":
        return _settled(revision, revision, ready=available, canary=canary)
    if mine is not None and mine["verdict"] == "RolledBack":
        return _settled(revision, last, ready=False, canary=canary)
    if mine is None:
        return _begin(spec, revision, last, observed) if available else _settled(revision, last, False, canary)
    return _continue(spec, revision, last, mine, observed)


def _settled(revision: str | None, serving: str | None, ready: bool, canary: Object | None) -> Rollout:
    shares = ((serving, 100),) if serving else ()
    return Rollout(revision=revision, serving=serving, ready=ready, shares=shares, canary=canary)


def _held(revision: str, serving: str, canary: Object | None) -> Rollout:
    """Suspended: without servers no revision can prove itself or be measured; what has the traffic keeps it."""
    if canary is not None and canary["verdict"] == "Progressing":
        canary = canary | {"message": "suspended"}
    return _settled(revision, serving, ready=False, canary=canary)


def _begin(spec: ModelServiceSpec, revision: str, last: str, observed: Observed) -> Rollout:
    canary = {
        "revisionName": revision,
        "step": 0,
        "stepStartTime": format_time(observed.now),
        "verdict": "Progressing",
        "message": "waiting for the routes",
    }
    word = "copies of all requests" if spec.rollout.strategy == "Shadow" else f"{_steps(spec)[0].percent}% of requests"
    event = Event(reason="CanaryStarted", message=f"revision {revision} gets {word}")
    return _under_way(spec, revision, last, canary, decided=True, event=event)


def _under_way(
    spec: ModelServiceSpec,
    revision: str,
    last: str,
    canary: Object,
    *,
    decided: bool = False,
    event: Event | None = None,
) -> Rollout:
    shadow = spec.rollout.strategy == "Shadow"
    percent = 0 if shadow else _step(spec, canary).percent
    compared = shadow or _analysis(spec).min_agreement is not None
    return Rollout(
        revision=revision,
        serving=last,
        ready=False,
        shares=((last, 100 - percent), (revision, percent)) if percent else ((last, 100),),
        mirror=revision if compared else None,
        canary=canary,
        decided=decided,
        event=event,
    )


def _continue(spec: ModelServiceSpec, revision: str, last: str, canary: Object, observed: Observed) -> Rollout:
    now = _under_way(spec, revision, last, canary)
    if observed.failure:
        return _roll_back(revision, last, canary, observed.failure)
    router = observed.load.router if observed.load is not None else None
    if router is None or router.tables != frozenset({now.table}):
        waiting = canary | {"message": "waiting for the routes"}
        return _under_way(spec, revision, last, waiting if canary["message"] != waiting["message"] else canary)
    measured = canary | _figures(router, revision, last)
    if trouble := _trouble(_analysis(spec), router, revision, last):
        return _roll_back(revision, last, measured, trouble)
    if missing := _missing(spec, canary, router, revision, observed.now):
        return _under_way(spec, revision, last, measured | {"message": missing})
    if spec.rollout.strategy == "Canary" and canary["step"] + 1 < len(_steps(spec)):
        step = canary["step"] + 1
        following = {**measured, "step": step, "stepStartTime": format_time(observed.now), "message": "next step"}
        event = Event(reason="CanaryStep", message=f"revision {revision} gets {_steps(spec)[step].percent}%")
        return _under_way(spec, revision, last, following, decided=True, event=event)
    passed = measured | {"verdict": "Promoted", "message": "passed all steps"}
    event = Event(reason="CanaryPromoted", message=f"revision {revision} gets all requests")
    return Rollout(
        revision=revision,
        serving=last,
        ready=False,
        shares=now.shares,
        mirror=now.mirror,
        canary=passed,
        decided=True,
        event=event,
    )


def _roll_back(revision: str, last: str, canary: Object, why: str) -> Rollout:
    told = canary | {"verdict": "RolledBack", "message": why}
    message = f"revision {revision} was rolled back: {why}; {last} serves"
    return Rollout(
        revision=revision,
        serving=last,
        ready=False,
        shares=((last, 100),),
        canary=told,
        decided=True,
        event=Event(reason="CanaryRolledBack", message=message, type="Warning"),
    )


def _figures(router: RouterLoad, revision: str, last: str) -> Object:
    new, old = router.traffic.get(revision, Traffic()), router.traffic.get(last, Traffic())
    figures = {
        "requests": new.requests,
        "errorRate": round(new.error_rate, 4),
        "p99Milliseconds": new.p99_milliseconds,
        "baselineP99Milliseconds": old.p99_milliseconds,
        "agreement": round(router.agreement, 4) if router.agreement is not None else None,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _trouble(analysis: Analysis, router: RouterLoad, revision: str, last: str) -> str:
    """What the new revision does not keep to; empty while nothing is known against it."""
    new, old = router.traffic.get(revision, Traffic()), router.traffic.get(last, Traffic())
    if new.requests >= analysis.min_requests and new.error_rate > old.error_rate + analysis.max_error_rate_delta:
        return f"{new.error_rate:.1%} of its requests failed, {old.error_rate:.1%} of the other revision's"
    slow, usual = new.p99_milliseconds, old.p99_milliseconds
    judged = min(new.requests, old.requests) >= P99_REQUESTS
    if judged and slow is not None and usual is not None:
        limit = max(usual * analysis.max_p99_ratio, usual + P99_SLACK_MILLISECONDS)
        if slow > limit:
            return f"its p99 is {slow:.0f} ms, the other revision's {usual:.0f} ms"
    asked, alike = analysis.min_agreement, router.agreement
    if asked is None or alike is None or router.compared < analysis.min_requests or alike >= asked:
        return ""
    return f"it answers {alike:.1%} of the requests alike, {asked:.1%} are asked for"


def _missing(spec: ModelServiceSpec, canary: Object, router: RouterLoad, revision: str, now: datetime) -> str:
    """What is still waited for in this step."""
    began = parse_time(canary["stepStartTime"]) or now
    pause = _step(spec, canary).pause_seconds
    if min((now - began).total_seconds(), router.seconds) < pause:
        return f"for {pause} s"
    analysis = _analysis(spec)
    had = router.traffic.get(revision, Traffic()).requests
    if had < analysis.min_requests:
        return f"waiting for {analysis.min_requests} requests"
    wants_comparison = spec.rollout.strategy == "Shadow" or analysis.min_agreement is not None
    if wants_comparison and router.compared < analysis.min_requests:
        return f"waiting for {analysis.min_requests} compared answers"
    return ""


def _analysis(spec: ModelServiceSpec) -> Analysis:
    return spec.rollout.analysis or Analysis()


def _steps(spec: ModelServiceSpec) -> tuple[RolloutStep, ...]:
    return tuple(spec.rollout.steps) or DEFAULT_STEPS


def _step(spec: ModelServiceSpec, canary: Object) -> RolloutStep:
    steps = _steps(spec)
    return steps[min(int(canary["step"]), len(steps) - 1)]
