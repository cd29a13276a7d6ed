"""What a training does about failures, on a real API server with its real controllers: a standstill, too little
memory."""

from __future__ import annotations

from typing import Any

import pytest
from cluster.accounts import accounted
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played, artifacts, training
from cluster.poster import Poster
from cluster.reporting import operator_that_listens

PYTHON = "docker.io/library/python:3.13-slim"
FILL = "import sys; filled = bytearray(b'x') * (100 << 20); sys.exit(not filled)"
"""Needs some 110 MiB."""


def report(step: int, **more: Any) -> Object:
    return {
        "trainerStatus": {"progressPercentage": step, "metrics": [{"name": "loss", "value": "0.5"}]},
        "progress": {"step": step, "totalSteps": 100, "tick": step},
        **more,
    }


def answered(poster: Poster, token: str, directive: str) -> Object | None:
    """The answer to a report without progress, once it is this directive: the operator sees its own write first."""
    code, answer = poster.post("hangs", token, report(10))
    assert code == 200, answer
    return answer if answer["directive"] == directive else None


@pytest.mark.side_by_side(seconds=40)
def test_a_stall_is_told_looked_into_restarted_and_done(laboratory: Laboratory) -> None:
    namespace, port = operator_that_listens(laboratory, "stall", host="127.0.0.1")
    body = training("hangs", nodes=2, runPolicy={"progressDeadlineSeconds": 4})
    played = Played.create(laboratory.api, namespace, body)
    played.running()
    poster = Poster(laboratory.api, namespace, port)
    first, second = poster.token("hangs-1-0"), poster.token("hangs-1-1")
    assert poster.post("hangs", first, report(10)) == (200, {"directive": "continue"})
    played.wait_reason("Stalled", "NoProgress")
    asked = eventually("stacks are asked for", lambda: answered(poster, first, "dumpStacks"))
    assert poster.post("hangs", second, report(10)) == (200, asked), "every node is asked, by the same id"
    stacks = {"uri": "pvc://hangs-output/stacks/attempt-1.txt"}
    poster.post("hangs", first, report(10, stacks=stacks))
    restarted = played.running(attempt=2)
    failed = restarted["status"]["lastFailure"]
    assert (failed["reason"], failed["rule"], failed["stacks"]) == ("Stalled", "default", stacks["uri"])
    events = [e for e in laboratory.api.list("Event", namespace) if e["involvedObject"]["name"] == "hangs"]
    assert {"Stalled", "Restarting"} <= {e["reason"] for e in events}
    again = poster.token("hangs-2-0")
    timing = {"startup": 1.0, "productive": 2.0, "replayed": 1.0}
    assert poster.post("hangs", again, report(90, timing=timing))[0] == 200
    for rank in (1, 0):
        played.end(2, rank, 0, artifacts("hangs-output"))
    accounted(played.wait("done", phase="Succeeded"))


@pytest.mark.side_by_side(seconds=40)
def test_more_memory_is_given_until_it_suffices(laboratory: Laboratory) -> None:
    body = training("hungry", failurePolicy={"maxRestarts": 0, "onOOM": {"memoryFactor": 2, "memoryMax": "512Mi"}})
    limits = {"limits": {"memory": "40Mi", "cpu": "1"}, "requests": {"cpu": "10m"}}
    trainer = {"image": PYTHON, "command": ["python", "-c", FILL], "resourcesPerNode": limits}
    body["spec"] |= {"trainer": trainer, "pod": {}}
    del body["spec"]["dataset"]
    played = Played.create(laboratory.api, laboratory.namespace, body)
    status = played.wait("done", 240, phase="Succeeded")["status"]
    assert status["memoryPerNode"] == "160Mi", "40, 80, 160"
    assert (status["restarts"], status.get("restartsCountTowardsMax", 0)) == (2, 0)
    failed = status["lastFailure"]
    assert (failed["reason"], failed["rule"], failed["exitCode"]) == ("OOMKilled", "onOOM", 137)


@pytest.mark.side_by_side(seconds=40)
def test_memory_has_an_end(laboratory: Laboratory) -> None:
    body = training("greedy", failurePolicy={"maxRestarts": 0, "onOOM": {"memoryFactor": 1.5, "memoryMax": "48Mi"}})
    limits = {"limits": {"memory": "40Mi", "cpu": "1"}, "requests": {"cpu": "10m"}}
    trainer = {"image": PYTHON, "command": ["python", "-c", FILL], "resourcesPerNode": limits}
    body["spec"] |= {"trainer": trainer, "pod": {}}
    del body["spec"]["dataset"]
    played = Played.create(laboratory.api, laboratory.namespace, body)
    status = played.wait("failed", 240, phase="Failed")["status"]
    assert status["memoryPerNode"] == "48Mi"
    message = next(c["message"] for c in status["conditions"] if c["type"] == "Finished")
    assert "OOMKilled" in message and "memoryMax, 48Mi" in message
