"""A training that runs and does not move: first it is marked and asked for its stacks, then it is a failure. Pure.

Any movement counts: a step, a percentage, the tick that moves within a long evaluation or checkpoint, a new phase. A
trainer that reports nothing at all cannot be told from one that hangs, and is left alone. Until the first step is told
of, libraries are loaded and data is fetched: that may take as long as startupDeadlineSeconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard_operator import conditions
from modelyard_operator.objects import parse_time
from modelyard_operator.training.failure import Failure
from modelyard_operator.training.situation import Situation

NO_PROGRESS = "NoProgress"
"""The reason of the condition Stalled."""
STACKS_SECONDS = 15.0
"""How long the stacks are waited for: a report is due every five seconds, and brings the request and then them."""


@dataclass(frozen=True, kw_only=True)
class Stall:
    """What is known of one: still waiting for the stacks, or to be acted upon."""

    message: str
    seconds_left: float
    """Until it is a failure, whether the stacks have come or not."""
    stacks: str = ""
    """Where the stacks are; empty as long as they have not come, and where they could not be saved."""
    digest: str = ""
    """What the ranks were doing, in short."""
    step: int | None = None

    @property
    def looked_into(self) -> bool:
        """Whether the stacks have come."""
        return bool(self.stacks or self.digest)

    def as_failure(self) -> Failure:
        where = "no stacks of the ranks came"
        if self.looked_into:
            where = f"the stacks of all ranks are in {self.stacks or 'the logs of the pods'}"
        return Failure(
            reason="Stalled",
            message=f"{self.message}; {where}",
            step=self.step,
            stacks=self.stacks or None,
            log_tail=self.digest or None,
        )


def look(situation: Situation) -> tuple[Stall | None, float | None]:
    """(the stall there is, None), or (None, seconds until there may be one)."""
    policy, report, gang = situation.spec.run_policy, situation.report, situation.gang
    marked, seconds = _marked_since(situation), policy.progress_deadline_seconds
    # A rank that is done does not excuse the others from moving.
    if seconds is None or not gang.running or gang.running + gang.succeeded != gang.size:
        return None, None
    if report is None and marked is None:
        return None, None
    if report is not None:
        if not report.has_begun:
            seconds = max(seconds, policy.startup_deadline_seconds)
        left = (report.advanced + timedelta(seconds=seconds) - situation.now).total_seconds()
        if left > 0:
            return None, left
    step = (situation.status.get("progress") or {}).get("step")
    told = (report.stacks or {}) if report is not None else {}
    since = marked or situation.now
    return Stall(
        message=f"no progress for {seconds} s" + (f" after step {step}" if step is not None else ""),
        seconds_left=(since + timedelta(seconds=STACKS_SECONDS) - situation.now).total_seconds(),
        stacks=str(told.get("uri") or told.get("path") or "") if marked else "",
        digest=str(told.get("digest") or "") if marked else "",
        step=step,
    ), None


def _marked_since(situation: Situation) -> datetime | None:
    stalled = conditions.find(situation.status, "Stalled")
    if not stalled or stalled["status"] != "True" or stalled["reason"] != NO_PROGRESS:
        return None
    return parse_time(stalled["lastTransitionTime"])
