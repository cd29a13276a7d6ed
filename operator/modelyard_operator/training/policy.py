"""What to do about a failure: the user's rules, then the defaults, first match wins; budgets and breaker. Pure.

A preset is a convention of exit codes: it stands behind what is no failure of the program (a checkpoint on request,
the infrastructure) and before the rest of the defaults.

Exit codes are those of sysexits.h: 64 usage, 65 data, 75 try again, 78 configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

_NOT_THE_PROGRAM: Sequence[DefaultRule] = (
    DefaultRule(
        name="checkpointed",
        matches=lambda f: f.reason == "Checkpointed" or f.exit_code == 75,
        action=Action.RESTART_UNCOUNTED,
    ),
    DefaultRule(
        name="infrastructure", matches=lambda f: f.reason in INFRASTRUCTURE_REASONS, action=Action.RESTART_UNCOUNTED
    ),
)
_ON_OOM = DefaultRule(name="onOOM", matches=lambda f: f.reason == "OOMKilled", action=Action.RESTART_UNCOUNTED)
"""Only while there is more memory to give: the cap bounds these restarts, and no other budget."""
_PRESETS: Mapping[str, Sequence[DefaultRule]] = {
    "": (),
    # restartPolicy: ExitCode of the Kubeflow training operator, version 1
    "ExitCode": (
        DefaultRule(name="permanent", matches=lambda f: 1 <= (f.exit_code or 0) <= 127, action=Action.FAIL),
        DefaultRule(name="retryable", matches=lambda f: 128 <= (f.exit_code or 0) <= 255, action=Action.RESTART),
    ),
}
_THE_PROGRAM: Sequence[DefaultRule] = (
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
    """Counted restarts since a step newer than any before: none of them has led to one."""
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


def decide(failure: Failure, policy: FailurePolicy, history: History, *, more_memory: bool = False) -> Decision:
    """One failure, one decision. `more_memory`: it ran out of memory, and the next attempt can have more.

    The first restart after progress is immediate; without progress the delay is backoffSeconds, doubled each time.
    """
    rule, action = _match(failure, policy, more_memory)
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
    after = History(counted=history.counted + 1, without_progress=without_progress + 1, best_step=best)
    delay = 0.0 if progressed else _delay(policy.backoff_seconds, unchanged)
    return Decision(action=action, rule=rule, why="", delay_seconds=delay, history=after)


def _delay(first_seconds: float, history: History) -> float:
    """Doubled by every failure without progress before this one; the restart after progress was made at once."""
    doublings = history.without_progress - (1 if history.best_step else 0)
    return float(min(BACKOFF_LAST_SECONDS, first_seconds * 2 ** max(0, doublings)))


def _match(failure: Failure, policy: FailurePolicy, more_memory: bool) -> tuple[str, Action]:
    for index, rule in enumerate(policy.rules):
        if _rule_matches(rule, failure):
            return rule.name or f"rules[{index}]", Action(rule.action)
    memory = (_ON_OOM,) if more_memory else ()
    rules = (*_NOT_THE_PROGRAM, *memory, *_PRESETS[policy.preset], *_THE_PROGRAM)
    default = next(rule for rule in rules if rule.matches(failure))
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
