"""What the time of a training went into: every second of wall time has one cause. Pure.

The life of a training is cut into stages where its status changes: in a queue, starting, running, restarting. A stage
lasts from `since` to the next, so that stages have neither gaps nor overlaps. A training runs from the first report of
its attempt, where that came before the cluster's word that its pods run: a busy kubelet says so seconds late. All of a
stage but running has one cause;
a running stage is divided by what rank 0 says of its time (`timing`), and what that does not cover is put down to the
work while it goes on, and to the failure once it has ended in one. An image that says nothing of its time starts until
it first reports, and works until its last step; what follows when all are done counts as saving. Suspended time is not
counted.

Accounts are kept when a status is written for another reason, and never cause a write. `stage.seconds` is what the
current stage has put into the totals so far: it is taken out again and counted anew.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from modelyard_operator import conditions
from modelyard_operator.objects import format_time, parse_time
from modelyard_operator.plan import Object, Report
from modelyard_operator.training.situation import Situation

CAUSES = ("queued", "startup", "productive", "replayed", "dataWait", "checkpoint", "restart")
UNREPORTED_SECONDS = 15.0
"""How much running time may be unreported without a suspicion: reports come every five seconds, statuses every ten."""
_DIGITS = 3

Seconds = dict[str, float]


def accounted(situation: Situation, after: Object) -> Object:
    """The status `after` with its accounts; those it had where nothing else of it has changed."""
    before = situation.status
    book = before.get("goodput") or {}
    if book and {**after, "goodput": None} == {**before, "goodput": None}:
        return {**after, "goodput": book}
    now = _whole(situation.now)
    stage = book.get("stage") or _first_stage(situation)
    since = parse_time(stage.get("since")) or now
    name = _name(after)
    moved = (name, after.get("attempt")) != (stage.get("name"), stage.get("attempt"))
    end = _running_since(situation.children.report, after, since, now) if moved and name == "running" else now
    report = _of_attempt(stage.get("attempt"), situation.children.report)
    stage = _with_steps(stage, report)
    spent = _spent(stage, since, end, report, failed=_has_failed(before, after))
    totals = {c: book.get(f"{c}Seconds", 0.0) - stage.get("seconds", {}).get(c, 0.0) for c in CAUSES}
    totals = {cause: seconds + spent.get(cause, 0.0) for cause, seconds in totals.items()}
    stage = _next_stage(name, after, end, stage) if moved else {**stage, "seconds": _rounded(spent)}
    return {**after, "goodput": _book(totals, stage)}


def _book(totals: Seconds, stage: Object) -> Object:
    elapsed = sum(totals.values())
    fields = {f"{cause}Seconds": max(0.0, round(seconds, _DIGITS)) for cause, seconds in totals.items()}
    ratio = round(totals["productive"] / elapsed, 4) if elapsed > 0 else 0.0
    return {"elapsedSeconds": round(elapsed, _DIGITS), **fields, "ratio": ratio, "stage": stage}


def _name(status: Object) -> str:
    """The stage that a status shows; empty while time does not count."""
    if conditions.is_true(status, "Finished") or conditions.is_true(status, "Suspended"):
        return ""
    if conditions.is_true(status, "Running"):
        return "running"
    if conditions.is_true(status, "Restarting"):
        return "restart"
    return "startup" if conditions.is_true(status, "Scheduled") else "queued"


def _first_stage(situation: Situation) -> Object:
    created = situation.training["metadata"].get("creationTimestamp") or format_time(situation.now)
    suspended = situation.written.suspend
    return {"name": "" if suspended else "queued", "since": created}


def _of_attempt(attempt: int | None, report: Report | None) -> Report | None:
    return report if report is not None and report.attempt == attempt else None


def _running_since(report: Report | None, after: Object, since: datetime, now: datetime) -> datetime:
    report = _of_attempt(after.get("attempt"), report)
    first = report.first_received if report is not None else None
    return now if first is None else max(since, _whole(first))


def _next_stage(name: str, after: Object, since: datetime, last: Object) -> Object:
    best = max(last.get("bestStep", 0), (after.get("lastFailure") or {}).get("bestStep") or 0)
    stage = {"name": name, "attempt": after.get("attempt"), "since": format_time(since), "bestStep": best}
    if last.get("attempt") == after.get("attempt") and "replayUntil" in last:
        return stage | {"replayUntil": last["replayUntil"]}
    return stage | {"replayUntil": best}


def _with_steps(stage: Object, report: Report | None) -> Object:
    """The stage, with when the attempt first told of itself, the steps that it began from and has reached."""
    if report is not None and report.first_received is not None and "toldSince" not in stage:
        stage = {**stage, "toldSince": format_time(report.first_received)}
    step = report.progress.get("step") if report is not None else None
    if report is None or step is None:
        return stage
    first = stage.get("fromStep", report.first_step if report.first_step is not None else step)
    return {**stage, "fromStep": first, "bestStep": max(stage.get("bestStep", 0), step)}


def _has_failed(before: Object, after: Object) -> bool:
    """Whether the stage ended in a failure, or is about to."""
    stalled = conditions.find(after, "Stalled")
    if stalled and stalled["status"] == "True":
        return True
    if conditions.is_true(after, "Finished"):
        return not conditions.is_true(after, "Succeeded")
    return conditions.is_true(after, "Restarting") and conditions.is_true(before, "Running")


def _spent(stage: Object, since: datetime, end: datetime, report: Report | None, *, failed: bool) -> Seconds:
    """The seconds of a stage by cause; they sum to its length."""
    length = max(0.0, (end - since).total_seconds())
    name = stage.get("name")
    if not name:
        return {}
    if name != "running":
        return {name: length}
    told = _told(report, since) or _seen(stage, since, end, report) if report is not None else {}
    known = sum(told.values())
    if known > length:  # clocks differ, or the last report is newer than the status that shows the end
        told = {cause: seconds * length / known for cause, seconds in told.items()}
        known = length
    unknown = length - known
    lost = min(length, _lost(report, end, unknown, failed=failed))
    works = report is None or report.has_begun
    rest = "productive" if works else "startup"
    told[rest] = told.get(rest, 0.0) + unknown - lost
    if told[rest] < 0:  # the trainer's clock went on while nothing moved
        lost += told[rest]
        told[rest] = 0.0
    told["restart"] = lost
    return _with_replay(told, stage, report)


def _told(report: Report, since: datetime) -> Seconds:
    """What rank 0 says of the attempt's time, without what passed before all nodes were seen to run."""
    timing = report.timing
    if not timing:
        return {}
    told = {
        "startup": timing.get("startup", 0.0),
        "productive": sum(timing.get(name, 0.0) for name in ("productive", "evaluation", "replayed")),
        "dataWait": timing.get("dataWait", 0.0),
        "checkpoint": timing.get("checkpoint", 0.0),
    }
    began = report.received - timedelta(seconds=sum(told.values()))
    told["startup"] = max(0.0, told["startup"] - max(0.0, (since - began).total_seconds()))
    return told


def _seen(stage: Object, since: datetime, end: datetime, report: Report) -> Seconds:
    """What shows of the time of an image that says nothing of it: its start, and its end when all steps are done."""
    seen = {}
    if begun := parse_time(stage.get("toldSince")):
        seen["startup"] = max(0.0, (begun - since).total_seconds())
    step, total = (report.progress.get(name) for name in ("step", "totalSteps"))
    if step is not None and total and step >= total:
        seen["checkpoint"] = max(0.0, (end - max(since, _whole(report.advanced))).total_seconds())
    return seen


def _whole(moment: datetime) -> datetime:
    """In whole seconds, as all times of a status are."""
    return moment.replace(microsecond=0)


def _lost(report: Report | None, end: datetime, unknown: float, *, failed: bool) -> float:
    """Seconds since the last sign of life: all of them after a failure, and those that are too many before one."""
    if report is None:
        return 0.0
    if failed:
        still = (end - _whole(report.advanced)).total_seconds()
        return max(unknown, still) if report.timing else still
    if not report.timing:
        return 0.0
    return unknown if unknown > UNREPORTED_SECONDS else 0.0


def _with_replay(told: Seconds, stage: Object, report: Report | None) -> Seconds:
    """The work divided into steps for the first time, and steps that an earlier attempt had done already."""
    work = told.get("productive", 0.0)
    replayed = report.timing.get("replayed", 0.0) if report is not None else 0.0
    step = report.progress.get("step") if report is not None else None
    begun, until = stage.get("fromStep"), stage.get("replayUntil", 0)
    if step is not None and begun is not None and step > begun and until > begun:
        replayed = max(replayed, work * (min(step, until) - begun) / (step - begun))
    replayed = min(replayed, work)
    return {**told, "productive": work - replayed, "replayed": replayed}


def _rounded(seconds: Seconds) -> dict[str, Any]:
    return {cause: round(value, _DIGITS) for cause, value in seconds.items() if value}
