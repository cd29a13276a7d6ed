"""What is decided about a failure: one table, a row a case."""

# ruff: noqa: E501 - a row a case

from __future__ import annotations

from typing import Any

import pytest
from modelyard_operator.training.failure import Failure
from modelyard_operator.training.policy import Action, History, decide
from modelyard_operator.training.policy_spec import FailurePolicy

RETRY, FREE, FAIL = "Restart", "RestartAndIgnoreMaxRestarts", "Fail"


def rule(name: str, action: str, codes: list[int] | None = None, reasons: list[str] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "action": action, "onReasons": reasons or []}
    return found | ({"onExitCodes": {"operator": "In", "values": codes}} if codes else {})


V1 = {"preset": "ExitCode"}
NONE: dict[str, Any] = {}

TABLE = [
    # what failed, the policy, the history -> action, rule, seconds of back-off
    ("a first crash without progress", Failure(reason="Error", exit_code=1), NONE, History(), RETRY, "default", 10),
    ("a crash after progress", Failure(reason="Error", exit_code=1, step=5), NONE, History(), RETRY, "default", 0),
    ("a second crash at the same step", Failure(reason="Error", exit_code=1, step=5), NONE,
     History(counted=1, without_progress=1, best_step=5), RETRY, "default", 10),
    ("a third one", Failure(reason="Error", exit_code=1, step=5), NONE,
     History(counted=2, without_progress=2, best_step=5), RETRY, "default", 20),
    ("the back-off doubles", Failure(reason="Error"), NONE, History(counted=2, without_progress=2), RETRY, "default", 40),
    ("the back-off has an end", Failure(reason="Error"), {"backoffSeconds": 300, "maxNoProgressRestarts": 0, "maxRestarts": 99},
     History(counted=9, without_progress=9), RETRY, "default", 300),
    ("the budget is spent", Failure(reason="Error", step=9), NONE, History(counted=3), FAIL, "maxRestarts", 0),
    ("no budget at all", Failure(reason="Error", step=9), {"maxRestarts": 0}, History(), FAIL, "maxRestarts", 0),
    ("no progress three times", Failure(reason="Error"), {"maxRestarts": 9},
     History(counted=3, without_progress=3), FAIL, "maxNoProgressRestarts", 0),
    ("the breaker is off", Failure(reason="Error"), {"maxRestarts": 9, "maxNoProgressRestarts": 0},
     History(counted=3, without_progress=3), RETRY, "default", 80),
    ("a checkpoint on request", Failure(reason="Checkpointed", exit_code=75), NONE, History(counted=3), FREE, "checkpointed", 0),
    ("a lost node", Failure(reason="NodeLost"), NONE, History(counted=3), FREE, "infrastructure", 0),
    ("an eviction", Failure(reason="Evicted", exit_code=137), NONE, History(counted=3), FREE, "infrastructure", 0),
    ("a preemption", Failure(reason="Preempted"), NONE, History(counted=3), FREE, "infrastructure", 0),
    ("bad usage", Failure(reason="Error", exit_code=64), NONE, History(), FAIL, "configuration", 0),
    ("bad data", Failure(reason="Error", exit_code=65), NONE, History(), FAIL, "configuration", 0),
    ("bad configuration", Failure(reason="Error", exit_code=78), NONE, History(), FAIL, "configuration", 0),
    ("an image that is not there", Failure(reason="ImagePullFailed"), NONE, History(), FAIL, "startup", 0),
    ("no room for it", Failure(reason="Unschedulable"), NONE, History(), FAIL, "startup", 0),
    ("out of memory", Failure(reason="OOMKilled", exit_code=137), NONE, History(), RETRY, "default", 10),
    ("a hang", Failure(reason="Stalled", step=7), NONE, History(), RETRY, "default", 0),
    ("its time is over", Failure(reason="DeadlineExceeded", step=7), NONE, History(), FAIL, "activeDeadlineSeconds", 0),
    ("a rule by exit code", Failure(reason="Error", exit_code=3), {"rules": [rule("three", FAIL, [3])]}, History(), FAIL, "three", 0),
    ("a rule that does not match", Failure(reason="Error", exit_code=4), {"rules": [rule("three", FAIL, [3])]},
     History(), RETRY, "default", 10),
    ("a rule before a default", Failure(reason="Error", exit_code=64), {"rules": [rule("again", FREE, [64])]}, History(), FREE, "again", 0),
    ("a rule by reason", Failure(reason="OOMKilled", exit_code=137), {"rules": [rule("oom", FAIL, None, ["OOMKilled"])]},
     History(), FAIL, "oom", 0),
    ("a rule by both, one of them wrong", Failure(reason="Error", exit_code=137),
     {"rules": [rule("oom", FAIL, [137], ["OOMKilled"])]}, History(), RETRY, "default", 10),
    ("a rule by exit code and no exit code", Failure(reason="NodeLost"), {"rules": [rule("any", FAIL, [1])]},
     History(), FREE, "infrastructure", 0),
    ("the first rule wins", Failure(reason="Error", exit_code=3),
     {"rules": [rule("one", FREE, [3]), rule("two", FAIL, [3])]}, History(), FREE, "one", 0),
    ("v1: a permanent exit code", Failure(reason="Error", exit_code=1), V1, History(), FAIL, "permanent", 0),
    ("v1: the last permanent one", Failure(reason="Error", exit_code=127), V1, History(), FAIL, "permanent", 0),
    ("v1: a retryable exit code", Failure(reason="Signal", exit_code=137), V1, History(), RETRY, "retryable", 10),
    ("v1: the last retryable one", Failure(reason="Error", exit_code=255), V1, History(), RETRY, "retryable", 10),
    ("v1: out of memory", Failure(reason="OOMKilled", exit_code=137), V1, History(), RETRY, "retryable", 10),
    ("v1: the budget is spent", Failure(reason="Signal", exit_code=137), V1, History(counted=3), FAIL, "maxRestarts", 0),
    ("v1: a checkpoint on request", Failure(reason="Checkpointed", exit_code=75), V1, History(), FREE, "checkpointed", 0),
    ("v1: a lost node", Failure(reason="NodeLost"), V1, History(), FREE, "infrastructure", 0),
    ("v1: an eviction", Failure(reason="Evicted", exit_code=1), V1, History(), FREE, "infrastructure", 0),
    ("v1: no exit code", Failure(reason="Stalled", step=7), V1, History(), RETRY, "default", 0),
    ("v1: a rule before it", Failure(reason="Error", exit_code=3), V1 | {"rules": [rule("three", RETRY, [3])]},
     History(), RETRY, "three", 10),
]  # fmt: skip


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case[0])
def test_the_decision_about(case: tuple[str, Failure, dict[str, Any], History, str, str, int]) -> None:
    _, failure, policy, history, action, name, delay = case
    decision = decide(failure, FailurePolicy.model_validate(policy), history)
    assert (decision.action.value, decision.rule, decision.delay_seconds) == (action, name, delay)


def test_only_counted_restarts_are_counted() -> None:
    policy = FailurePolicy()
    counted = decide(Failure(reason="Error"), policy, History()).history
    assert (counted.counted, counted.without_progress) == (1, 1)
    free = decide(Failure(reason="NodeLost"), policy, counted).history
    assert (free.counted, free.without_progress) == (1, 1)


def test_progress_resets_the_breaker_and_is_remembered() -> None:
    after = decide(Failure(reason="Error", step=8), FailurePolicy(), History(without_progress=2, best_step=7)).history
    assert (after.without_progress, after.best_step) == (1, 8), "the restart that follows has yet to show one"


@pytest.mark.parametrize("steps", [[0, 0, 0, 0, 0, 0], [5, 5, 5, 5, 5, 5], [3, 9, 9, 8, 9, 9]], ids=str)
def test_three_restarts_without_a_newer_step_are_the_last(steps: list[int]) -> None:
    """However far it got before, and with a budget that would allow more."""
    policy, history, best, barren = FailurePolicy.model_validate({"maxRestarts": 99}), History(), 0, 0
    for step in steps:
        decision = decide(Failure(reason="Error", exit_code=1, step=step), policy, history)
        barren = 0 if step > best else barren
        best, history = max(best, step), decision.history
        if decision.action is Action.FAIL:
            break
        barren += 1
    assert (decision.rule, barren) == ("maxNoProgressRestarts", 3)


def test_progress_in_between_never_exhausts_the_breaker() -> None:
    policy, history = FailurePolicy.model_validate({"maxRestarts": 99}), History()
    for step in range(10, 210, 10):
        decision = decide(Failure(reason="Signal", exit_code=137, step=step), policy, history)
        assert (decision.action, decision.delay_seconds) == (Action.RESTART, 0)
        history = decision.history


def test_more_memory_is_a_rule_of_its_own_while_there_is_more() -> None:
    failure, spent = Failure(reason="OOMKilled", exit_code=137), History(counted=3, without_progress=3)
    for policy in (FailurePolicy(), FailurePolicy.model_validate(V1)):
        decision = decide(failure, policy, spent, more_memory=True)
        assert (decision.action.value, decision.rule, decision.history.counted) == (FREE, "onOOM", 3)
        assert decide(failure, policy, spent).action is Action.FAIL
    mine = FailurePolicy.model_validate({"rules": [rule("oom", FAIL, None, ["OOMKilled"])]})
    assert decide(failure, mine, History(), more_memory=True).rule == "oom"
