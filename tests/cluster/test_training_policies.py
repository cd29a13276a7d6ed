"""What a training does about failures, on a real API server with its real controllers: a standstill, too little memory,
too few nodes."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played, artifacts, training
from cluster.pool import pool
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


@pytest.mark.side_by_side(seconds=40)
def test_a_stall_is_told_looked_into_restarted_and_done(laboratory: Laboratory) -> None:
    namespace, port = operator_that_listens(laboratory, "stall", host="127.0.0.1")
    body = training("hangs", nodes=2, runPolicy={"progressDeadlineSeconds": 4})
    played = Played.create(laboratory.api, namespace, body)
    played.running()
    poster = Poster(laboratory.api, namespace, port)
    first, second = poster.token("hangs-1-0"), poster.token("hangs-1-1")
    assert poster.post("hangs", first, report(10)) == (200, {"directive": "continue"})
    posted = time.monotonic()
    played.wait_reason("Stalled", "NoProgress", 30)
    assert time.monotonic() - posted < 4 + 10, "within the deadline and ten seconds"
    code, asked = poster.post("hangs", first, report(10))
    assert (code, asked["directive"]) == (200, "dumpStacks")
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


def accounted(obj: Object) -> None:
    """Every second has one cause: they sum to the time from creation to completion."""
    told = obj["status"]["goodput"]
    causes = sum(v for k, v in told.items() if k.endswith("Seconds") and k != "elapsedSeconds")
    began, ended = obj["metadata"]["creationTimestamp"], obj["status"]["completionTime"]
    lived = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
    assert causes == pytest.approx(told["elapsedSeconds"], rel=0.01), told
    assert told["elapsedSeconds"] == pytest.approx(lived, rel=0.01, abs=1), told
    assert told["restartSeconds"] > 0 and 0 <= told["ratio"] < 1, told


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


def one_a_node(name: str) -> Object:
    """Pods of a training keep apart."""
    term = {
        "labelSelector": {"matchLabels": {"modelyard.dev/training": name}},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


@pytest.mark.side_by_side(seconds=150)
def test_it_trains_with_the_nodes_there_are_and_takes_more_when_they_come(laboratory: Laboratory) -> None:
    namespace, port = operator_that_listens(laboratory, "elastic", host="127.0.0.1")
    poster = Poster(laboratory.api, namespace, port)
    with pool(laboratory.api, "elastic") as nodes:
        nodes.add()
        nodes.add()
        policy = {"minNodes": 2, "shrinkAfterSeconds": 2}
        body = training("elastic", nodes=3, elasticPolicy=policy, pod=nodes.pod(affinity=one_a_node("elastic")))
        body["spec"]["pod"] = nodes.pod(affinity=one_a_node("elastic"))
        played = Played.create(laboratory.api, namespace, body)
        status = played.running(attempt=2)["status"]
        assert status["nodes"] == {"desired": 2, "ready": 2, "failed": 0, "worldSize": 2}
        assert status.get("restartsCountTowardsMax", 0) == 0
        spare = eventually("a spare asks", lambda: laboratory.api.find("Pod", namespace, "elastic-2-2"))
        assert not spare["spec"].get("nodeName")
        nodes.add()
        eventually("it is to grow", lambda: played.status["nodes"].get("growTo") == 3, 120, played.told)
        first = poster.token("elastic-2-0")
        code, asked = poster.post("elastic", first, report(40))
        assert (code, asked["directive"]) == (200, "checkpoint")
        poster.post("elastic", first, report(41, checkpoint=checkpoint(41)))
        grown = played.running(attempt=3)["status"]
        assert grown["nodes"] == {"desired": 3, "ready": 3, "failed": 0, "worldSize": 3}
        assert grown["checkpoint"]["step"] == 41
        assert sorted(p["metadata"]["name"] for p in played.children("Pod")) == [f"elastic-3-{r}" for r in range(3)]
        played.delete()
        eventually("its pods are gone", lambda: not played.children("Pod"))


def checkpoint(step: int) -> Object:
    """One that is complete now."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"step": step, "uri": f"pvc://elastic-output/checkpoints/{step}", "time": now, "sizeBytes": 1}
