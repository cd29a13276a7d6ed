"""Idle means idle: a world that does not change costs no write."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from cluster.kubernetes_api import eventually
from cluster.laboratory import Laboratory
from cluster.lives import CLAIM, finish_training
from cluster.objects import Played, artifacts, service, training

TRAININGS, SERVICES = 30, 20
SECONDS = 120
KINDS = ("ModelTraining", "ModelService", "Pod", "Service", "Deployment", "PersistentVolumeClaim")


@pytest.mark.side_by_side(seconds=200)
def test_fifty_finished_and_ready_objects_are_left_alone_for_two_minutes(laboratory: Laboratory) -> None:
    namespace = laboratory.make_namespace("idle")
    operator, proxy = laboratory.start_operator([namespace])
    fill(laboratory, namespace)
    wait_quiet(lambda: len(proxy.writes))
    audit, writes, before = laboratory.audit_from_now(), len(proxy.writes), versions(laboratory, namespace)
    began = time.monotonic()
    while time.monotonic() - began < SECONDS:
        assert operator.running and operator.probe("/healthz")[0] == 200, operator.tail()
        time.sleep(5)
    assert list(map(str, proxy.writes[writes:])) == []
    assert [str(e) for e in audit.entries(namespace) if e.mutating and e.user_agent == "modelyard-operator"] == []
    assert versions(laboratory, namespace) == before


@pytest.mark.side_by_side(seconds=60)
def test_a_restarted_operator_has_nothing_to_write_either(laboratory: Laboratory) -> None:
    namespace = laboratory.make_namespace("restarted")
    operator, proxy = laboratory.start_operator([namespace])
    fill(laboratory, namespace, trainings=3, services=2)
    running = Played.create(laboratory.api, namespace, training("runs-on", nodes=2))
    running.running()
    wait_quiet(lambda: len(proxy.writes))
    operator.kill()
    writes, before = len(proxy.writes), versions(laboratory, namespace)
    operator.start()
    operator.wait_ready()
    time.sleep(5)  # nothing is to happen: there is no condition to wait for
    assert list(map(str, proxy.writes[writes:])) == []
    assert versions(laboratory, namespace) == before


def fill(laboratory: Laboratory, namespace: str, trainings: int = TRAININGS, services: int = SERVICES) -> None:
    """Trainings brought to their end, and services until they are ready."""
    api = laboratory.api
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
    api.create(body, namespace)
    finish_training(api, namespace, "source")

    def train(number: int) -> None:
        body = training(f"done-{number}", nodes=1 + number % 2, output={"uri": f"pvc://{CLAIM}"})
        played = Played.create(api, namespace, body)
        played.running(seconds=240)
        for rank in range(1 + number % 2):
            fails = number % 5 == 4
            played.end(1, rank, 64 if fails else 0, artifacts(CLAIM) if not fails else "bad parameters")
        eventually("finished", lambda: played.status.get("phase") in ("Succeeded", "Failed"), 240, played.told)

    def serve(number: int) -> None:
        served = Played.create(api, namespace, service(f"ready-{number}", {"trainingRef": {"name": "source"}}))
        served.wait("ready", 240, phase="Ready")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(train, range(trainings)))
        list(pool.map(serve, range(services)))


def wait_quiet(count: object, seconds: float = 5) -> None:
    """Until the writes under way are over: statuses may be merged for some seconds, deleted pods take a moment."""
    assert callable(count)
    seen, since = count(), time.monotonic()

    def quiet() -> bool:
        nonlocal seen, since
        if count() != seen:
            seen, since = count(), time.monotonic()
        return time.monotonic() - since > seconds

    eventually("the writes are over", quiet, 120)


def versions(laboratory: Laboratory, namespace: str) -> dict[str, str]:
    """Kind/name -> resource version of everything in the namespace."""
    return {
        f"{kind}/{obj['metadata']['name']}": obj["metadata"]["resourceVersion"]
        for kind in KINDS
        for obj in laboratory.api.list(kind, namespace)
    }
