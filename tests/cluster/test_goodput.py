"""Goodput by a schedule of faults on the real kubelet, beside what a person computes for it with pencil and paper."""

from __future__ import annotations

import json
import time

import pytest
from cluster.accounts import accounted
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.reporting import operator_that_listens

PYTHON = "docker.io/library/python:3.13-slim"
STEPS, PACE, KILLED_AT, SAVED_BEFORE = 280, 0.4, 60, 50
SUSPENDED_SECONDS = 6
# A trainer that sleeps: a step takes PACE seconds. It saves when told to end, and ends at once; and once before it is
# killed. It reports steps and nothing of its time: the operator has only what any image may tell it. Its own watch, on
# which steps take a little longer where the machine is busy, is read from the last words of the last attempt.
TRAINER = f"""
import json, os, signal, ssl, time, urllib.request
from pathlib import Path

saved, watch = (Path(os.environ["MODELYARD_OUTPUT"], name) for name in ("step", "watch"))
server = "KUBEFLOW_TRAINER_SERVER_"
trusted = ssl.create_default_context(cafile=os.environ[server + "CA_CERT"])

def end(*_):
    note_time()
    saved.write_text(str(step))
    os._exit(75)

def note_time():
    watch.write_text(str(before + time.monotonic() - began))

def report(step):
    status = {{"progressPercentage": 100 * step // {STEPS}, "metrics": []}}
    body = json.dumps({{"trainerStatus": status, "progress": {{"step": step, "totalSteps": {STEPS}}}}}).encode()
    token = Path(os.environ[server + "TOKEN"]).read_text()
    headers = {{"Content-Type": "application/json", "Authorization": "Bearer " + token}}
    try:
        request = urllib.request.Request(os.environ[server + "URL"], body, headers, method="POST")
        urllib.request.urlopen(request, timeout=2, context=trusted).close()
    except OSError as error:
        print(f"step {{step}} was not reported: {{error}}", flush=True)
        return False
    return True

step = int(saved.read_text()) if saved.exists() else 0
while not report(step):  # what is done again is counted from here
    time.sleep(0.1)
before = float(watch.read_text()) if watch.exists() else 0.0
began = due = time.monotonic()
signal.signal(signal.SIGTERM, end)
while step < {STEPS}:
    due += {PACE}
    time.sleep(max(0, due - time.monotonic()))
    step += 1
    report(step)
    note_time()
    if step == {SAVED_BEFORE}:
        saved.write_text(str(step))
    if step == {KILLED_AT} and os.environ["MODELYARD_ATTEMPT"] == "1":
        os._exit(137)
Path("/dev/termination-log").write_text(watch.read_text())
"""


def training(name: str) -> Object:
    spec: Object = {
        "trainer": {
            "image": PYTHON,
            "command": ["python", "-c", TRAINER],
            "resourcesPerNode": {"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "20m"}},
        },
        "output": {"size": "1Mi"},
        "failurePolicy": {"maxRestarts": 1, "backoffSeconds": 3},
        "runPolicy": {"terminationGracePeriodSeconds": 20},
    }
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": {"name": name}, "spec": spec}


@pytest.mark.side_by_side(seconds=150)
def test_a_kill_an_eviction_and_a_pause_cost_what_a_person_computes(laboratory: Laboratory) -> None:
    namespace, _ = operator_that_listens(laboratory, "goodput")
    played = Played.create(laboratory.api, namespace, training("scheduled"))

    def beyond(attempt: int, step: int) -> bool:
        status = played.status
        return status.get("attempt") == attempt and (status.get("progress") or {}).get("step", 0) >= step

    eventually("the killed one has gone on", lambda: beyond(2, 75), 120, played.told)
    laboratory.api.evict(namespace, "scheduled-2-0")
    eventually("the evicted one has gone on", lambda: beyond(3, 130), 120, played.told)
    played.edit(suspend=True)
    paused = time.monotonic()
    played.wait("suspended", phase="Suspended")
    time.sleep(max(0.0, paused + SUSPENDED_SECONDS - time.monotonic()))  # the pause is what is played here
    played.edit(suspend=False)
    suspended = time.monotonic() - paused
    told = accounted(played.wait("done", 180, phase="Succeeded"), suspended)
    replayed = (KILLED_AT - SAVED_BEFORE) * PACE
    worked = watched(laboratory, namespace, "scheduled-4-0")
    shown = f"{worked:.1f} s of steps; {json.dumps(told)}"
    # Two points; and where reports take long, because the machine is busy, what they took may be seen as either.
    late = worked - STEPS * PACE
    tolerance = 0.02 + late / told["elapsedSeconds"]
    assert told["ratio"] == pytest.approx((worked - replayed) / told["elapsedSeconds"], abs=tolerance), shown
    assert told["replayedSeconds"] == pytest.approx(replayed, abs=1 + late), shown
    assert told["restartSeconds"] >= 3, "the back-off after the kill"


def watched(laboratory: Laboratory, namespace: str, pod: str) -> float:
    """Seconds that all attempts spent on steps, by the trainer's watch."""
    (container,) = laboratory.api.get("Pod", namespace, pod)["status"]["containerStatuses"]
    seconds = float(container["state"]["terminated"]["message"])
    assert seconds > STEPS * PACE
    return seconds
