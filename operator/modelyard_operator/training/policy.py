"""What to do about a failure: the user's rules, then the defaults, first match wins; budgets and breaker. Pure.

Exit codes are those of sysexits.h: 64 usage, 65 data, 75 try again, 78 configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelyard_operator.training.failure import Failure
from modelyard_operator.training.spec import FailurePolicy, FailureRule

BACKOFF_LAST_SECONDS = 300.0


class Action(StrEnum):
    RESTART = "Restart"
    RESTART_UNCOUNTED = "RestartAndIgnoreMaxRestarts"
    FAIL = "Fail"


@dataclass(frozen=True, kw_only=True)
class DefaultRule:
    name: str
    matches: Callable[[Failure], bool]
    action: Action


INFRASTRUCTURE_REASONS = ("NodeLost", "Evicted", "Preempted", "PodDeleted")
STARTUP_REASONS = ("ImagePullFailed", "Unschedulable", "StartupDeadlineExceeded", "StartError")

DEFAULT_RULES: Sequence[DefaultRule] = (
    DefaultRule(
        name="checkpointed",
        matches=lambda f: f.reason == "Checkpointed" or f.exit_code == 75,
        action=Action.RESTART_UNCOUNTED,
    ),
    DefaultRule(
        name="infrastructure", matches=lambda f: f.reason in INFRASTRUCTURE_REASONS, action=Action.RESTART_UNCOUNTED
    ),
    DefaultRule(name="configuration", matches=lambda f: f.exit_code in (64, 65, 78), action=Action.FAIL),
    DefaultRule(name="startup", matches=lambda f: f.reason in STARTUP_REASONS, action=Action.FAIL),
    DefaultRule(name="default", matches=lambda _: True, action=Action.RESTART),
)


@dataclass(frozen=True, kw_only=True)
class History:
    """What the status remembers of earlier failures."""

    counted: int = 0
    """Restarts that counted towards maxRestarts."""
    without_progress: int = 0
    """Consecutive counted restarts since a step newer than any before."""
    best_step: int = 0
    """The furthest step that any failed attempt had reached."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer to one failure."""

    action: Action
    rule: str
    why: str
    """Why a restart was refused, in words for the status; empty for a restart."""
    delay_seconds: float = 0.0
    history: History


def decide(failure: Failure, policy: FailurePolicy, history: History) -> Decision:
    """One failure, one decision.

    The first restart after progress is immediate; without progress the delay is backoffSeconds, doubled each time.
    """
    rule, action = _match(failure, policy.rules)
    if failure.reason == "DeadlineExceeded":  # not a failure that a rule could make good: the time is over
        rule, action = "activeDeadlineSeconds", Action.FAIL
    step = failure.step or 0
    progressed = step > history.best_step
    without_progress = 0 if progressed else history.without_progress
    best = max(step, history.best_step)
    unchanged = History(counted=history.counted, without_progress=without_progress, best_step=best)
    if action is Action.FAIL:
        return Decision(action=action, rule=rule, why=f"by rule {rule}", history=unchanged)
    if action is Action.RESTART_UNCOUNTED:
        return Decision(action=action, rule=rule, why="", history=unchanged)
    if history.counted >= policy.max_restarts:
        why = f"failed after {history.counted} of at most {policy.max_restarts} restarts"
        return Decision(action=Action.FAIL, rule="maxRestarts", why=why, history=unchanged)
    limit = policy.max_no_progress_restarts
    if limit and without_progress >= limit:
        why = f"{without_progress} restarts in a row reached no step beyond {best}"
        return Decision(action=Action.FAIL, rule="maxNoProgressRestarts", why=why, history=unchanged)
    delay = 0.0 if progressed else min(BACKOFF_LAST_SECONDS, policy.backoff_seconds * 2**without_progress)
    after = History(
        counted=history.counted + 1, without_progress=0 if progressed else without_progress + 1, best_step=best
    )
    return Decision(action=action, rule=rule, why="", delay_seconds=delay, history=after)


def _match(failure: Failure, rules: Sequence[FailureRule]) -> tuple[str, Action]:
    for index, rule in enumerate(rules):
        if _rule_matches(rule, failure):
            return rule.name or f"rules[{index}]", Action(rule.action)
    default = next(rule for rule in DEFAULT_RULES if rule.matches(failure))
    return default.name, default.action


def _rule_matches(rule: FailureRule, failure: Failure) -> bool:
    """A rule matches when each criterion that it names does."""
    if rule.on_exit_codes is not None:
        if failure.exit_code is None:
            return False
        among = failure.exit_code in rule.on_exit_codes.values
        if among != (rule.on_exit_codes.operator == "In"):
            return False
    return not rule.on_reasons or failure.reason in rule.on_reasons
