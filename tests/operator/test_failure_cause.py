"""Which rank failed first, and why: what is read from pods, whatever they leave behind."""

# ruff: noqa: E501 - a row a case

from __future__ import annotations

import json
from typing import Any

import pytest
from modelyard_operator.plan import Object
from modelyard_operator.training.failure import failure_of, first_failure

AT = "2026-01-01T00:00:00Z"
TRACEBACK = """epoch 1
Traceback (most recent call last):
  File "/app/train.py", line 9, in <module>
    main()
  File "/app/train.py", line 5, in main
    raise torch.OutOfMemoryError("no room for 3 GiB")
torch.OutOfMemoryError: no room for 3 GiB
"""
EVICTED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}


def pod(rank: int, exit_code: int, message: Any = "", reason: str = "Error", at: str = AT, **status: Any) -> Object:
    text = message if isinstance(message, str) else json.dumps(message)
    state = {"exitCode": exit_code, "reason": reason, "message": text, "finishedAt": at}
    containers = [{"name": "trainer", "state": {"terminated": state}}]
    return {
        "metadata": {"name": f"demo-1-{rank}"},
        "spec": {"nodeName": "node-a"},
        "status": {"phase": "Failed", "containerStatuses": containers, **status},
    }


def record(**failure: Any) -> dict[str, Any]:
    return {"failure": failure, "step": 7}


CAUSES: list[tuple[str, Object, dict[str, Any]]] = [
    ("an exception, told by the launcher", pod(0, 1, record(rank=1, exceptionType="KeyError", message="'x'", logTail="a\nb")),
     {"reason": "Error", "rank": 1, "exception_type": "KeyError", "message": "'x'", "log_tail": "a\nb", "step": 7}),
    ("an exception, in the log of any image", pod(0, 1, TRACEBACK),
     {"reason": "Error", "exception_type": "torch.OutOfMemoryError", "message": "no room for 3 GiB", "exit_code": 1}),
    ("a log without an exception", pod(0, 3, "starting\ncannot open the license file\n"),
     {"reason": "Error", "message": "cannot open the license file", "log_tail": "starting\ncannot open the license file"}),
    ("SIGKILL of the container", pod(0, 137), {"reason": "Signal", "signal": "SIGKILL", "exit_code": 137}),
    ("SIGSEGV of a rank", pod(1, 139, record(rank=3, signal="SIGSEGV")), {"reason": "Signal", "signal": "SIGSEGV", "rank": 3}),
    ("the cgroup's limit", pod(1, 137, reason="OOMKilled"), {"reason": "OOMKilled", "signal": "SIGKILL", "rank": 1}),
    ("a bad parameter", pod(0, 64, record(rank=0, message="epochs: must be positive")),
     {"reason": "Error", "exit_code": 64, "message": "epochs: must be positive"}),
    ("bad data", pod(0, 65, record(rank=0, exceptionType="DataError", message="a.csv:7: no label")),
     {"reason": "Error", "exit_code": 65, "exception_type": "DataError"}),
    ("an eviction", pod(0, 143, conditions=[EVICTED]), {"reason": "Evicted", "signal": "SIGTERM"}),
    ("an eviction that left time to save", pod(0, 75, record(reason="Checkpointed"), conditions=[EVICTED]),
     {"reason": "Checkpointed", "exit_code": 75}),
    ("a command that is not there", pod(0, 128, "exec: not found", reason="StartError"),
     {"reason": "StartError", "message": "exec: not found"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CAUSES, ids=lambda case: case[0])
def test_the_cause_is_read_from(case: tuple[str, Object, dict[str, Any]]) -> None:
    _, failed, wanted = case
    failure = failure_of(failed, int(failed["metadata"]["name"][-1]))
    assert failure is not None
    assert {name: getattr(failure, name) for name in wanted} == wanted


def test_of_a_long_log_the_last_twenty_lines_are_kept() -> None:
    failure = failure_of(pod(0, 1, "\n".join(f"line {n}" for n in range(50))), 0)
    assert failure is not None and failure.log_tail is not None
    assert failure.log_tail.splitlines() == [f"line {n}" for n in range(30, 50)]


LATER = "2026-01-01T00:00:01Z"
ECHO = record(rank=0, exceptionType="PeerLost", message="rank 1 does not answer", reason="PeerLost")
FIRST: list[tuple[str, dict[int, Object], int]] = [
    ("the earlier one", {0: pod(0, 1, at=LATER), 1: pod(1, 1)}, 1),
    ("the lower rank of the same second", {0: pod(0, 1), 1: pod(1, 1)}, 0),
    ("not the echo, though it came first", {0: pod(0, 1, ECHO), 1: pod(1, 137, at=LATER)}, 1),
    ("not what the libraries say of a lost peer", {0: pod(0, 1, "gloo: Connection closed by peer"), 1: pod(1, 139, at=LATER)}, 1),
    ("the echo where there is nothing else", {0: pod(0, 1, ECHO)}, 0),
]  # fmt: skip


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case[0])
def test_the_first_is(case: tuple[str, dict[int, Object], int]) -> None:
    _, pods, rank = case
    failure = first_failure(pods)
    assert failure is not None and failure.rank == rank


def test_a_pod_that_runs_has_not_failed() -> None:
    assert first_failure({0: {"metadata": {"name": "demo-1-0"}, "spec": {}, "status": {"phase": "Running"}}}) is None
