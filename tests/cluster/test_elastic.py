"""A real gang that loses a place for good, goes on alone, and takes the place back when there is one again.

Places are an extended resource that the test gives the real node and takes from it again. Which samples each rank
trains with is printed by the pods themselves: a module of the test's own wraps the drawing of batches.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from cluster.accounts import accounted
from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.ranks import events_of
from cluster.reporting import operator_that_listens

SEAT = "modelyard.dev/test-seat"
EPOCHS, BATCH, SAMPLES = 5, 64, 1438
STEPS = SAMPLES // BATCH  # of an epoch
# Alone a step takes a second, since the place comes back after a minute at the earliest; and waiting costs nothing.
PROBE = """
import json, os, sys, time

if "modelyard_workloads.train" in sys.orig_argv:
    from modelyard_workloads.data.order import DataOrder, Shard

    pause = 1.0 if os.environ["WORLD_SIZE"] == "1" else 0.2
    draw, take, latest = DataOrder.__next__, Shard.take, {}

    def draw_and_note(self):
        time.sleep(pause)
        drawn = draw(self)
        latest.update(step=self._epoch * self.steps_per_epoch + self._position, indices=drawn.indices)
        return drawn

    def take_and_tell(self, values):
        mine = take(self, values)
        if values is latest.get("indices"):
            told = {"event": "drawn", "rank": self.rank, "step": latest["step"], "samples": mine.tolist()}
            sys.stdout.write(json.dumps(told) + "\\n")  # in one piece: others write too
        return mine

    DataOrder.__next__, Shard.take = draw_and_note, take_and_tell
"""


def training(name: str, **spec: Any) -> Object:
    """Two ranks in two pods, a checkpoint every five steps, and no failure of its own allowed."""
    limits = {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "100m"}}
    parameters = {"architecture": "test_resnet.r160_in1k", "epochs": EPOCHS, "batchSize": BATCH}
    trainer = {
        "builtin": "image-classification",
        "parameters": {**parameters, "evaluateEveryEpochs": EPOCHS},
        "numNodes": 2,
        "resourcesPerNode": limits,
    }
    base: Object = {
        "trainer": trainer,
        "dataset": {"uri": "example://digits"},
        "output": {"size": "1Gi"},
        "checkpoint": {"everySteps": 5, "everySeconds": None},
        "failurePolicy": {"maxRestarts": 0, "backoffSeconds": 0},
        "runPolicy": {"terminationGracePeriodSeconds": 20},
        **spec,
    }
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": {"name": name}, "spec": base}


def elastic(name: str) -> Object:
    """The same, with a place for each node, and on one if there are not two."""
    volume = {"name": "probe", "configMap": {"name": "probe"}}
    mount = {"name": "probe", "mountPath": "/probe", "readOnly": True}
    body = training(
        name,
        elasticPolicy={"minNodes": 1, "shrinkAfterSeconds": 20},  # a busy machine takes a while to give a place back
        pod={"volumes": [volume], "volumeMounts": [mount]},
    )
    body["spec"]["trainer"]["env"] = [{"name": "PYTHONPATH", "value": "/probe:/opt/modelyard"}]
    body["spec"]["trainer"]["resourcesPerNode"]["limits"][SEAT] = "1"
    return body


def seats(api: KubernetesApi, count: int | None) -> None:
    """As many places on the real node; None takes the resource away."""
    nodes = api.list("Node", None)
    node = next(n for n in nodes if any(a["type"] == "InternalIP" for a in n["status"].get("addresses") or ()))
    value = {SEAT: None if count is None else str(count)}
    change = {"status": {"capacity": value, "allocatable": value}}
    api.patch("Node", None, node["metadata"]["name"], change, "status")


class Drawn:
    """What the pods of one attempt say that they train with, while they do."""

    def __init__(self, namespace: str, name: str, attempt: int, size: int) -> None:
        self.samples: dict[int, dict[int, list[int]]] = {}
        """Step -> rank -> indices."""
        pods = [f"{name}-{attempt}-{rank}" for rank in range(size)]
        self._threads = [threading.Thread(target=self._read, args=(namespace, pod), daemon=True) for pod in pods]
        for thread in self._threads:
            thread.start()

    def _read(self, namespace: str, pod: str) -> None:
        with events_of(namespace, pod) as events:
            for event in events:
                if event["event"] == "drawn":
                    self.samples.setdefault(event["step"], {})[event["rank"]] = event["samples"]

    def close(self) -> None:
        """When the pods have ended."""
        for thread in self._threads:
            thread.join(60)


def once_an_epoch(attempts: list[Drawn]) -> None:
    """Of every step the latest attempt that did it counts: what was done before it was lost."""
    steps = {step: ranks for attempt in attempts for step, ranks in attempt.samples.items()}
    assert sorted(steps)[: EPOCHS * STEPS] == list(range(1, EPOCHS * STEPS + 1))
    for epoch in range(EPOCHS):
        seen: Counter[int] = Counter()
        for step in range(epoch * STEPS + 1, (epoch + 1) * STEPS + 1):
            batch = [sample for samples in steps[step].values() for sample in samples]
            assert len(batch) == BATCH, f"step {step} had a global batch of {len(batch)}"
            seen.update(batch)
        assert len(seen) == seen.total() == STEPS * BATCH, f"epoch {epoch}: {seen.most_common(3)}"


@pytest.mark.side_by_side(seconds=140, busy=True)
def test_a_gang_goes_on_alone_and_grows_back_and_learns_what_it_would_have_learned(laboratory: Laboratory) -> None:
    api, (namespace, _) = laboratory.api, operator_that_listens(laboratory, "elastic")
    probe: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "probe"}}
    api.create({**probe, "data": {"sitecustomize.py": PROBE}}, namespace)
    try:
        seats(api, 2)
        played = Played.create(api, namespace, elastic("elastic"))
        played.running()
        attempts = [Drawn(namespace, "elastic", 1, 2)]
        eventually("some steps are done", lambda: max(attempts[0].samples, default=0) > 7, 240, played.told)
        seats(api, 1)
        api.delete("Pod", namespace, "elastic-1-1", 0)  # as if its machine had gone
        alone = played.running(attempt=3, seconds=240)["status"]
        assert alone["nodes"] == {"desired": 1, "ready": 1, "failed": 0, "worldSize": 1}
        attempts.append(Drawn(namespace, "elastic", 3, 1))
        spare = eventually("a spare asks for the place", lambda: api.find("Pod", namespace, "elastic-3-1"))
        assert not spare["spec"].get("nodeName")
        seats(api, 2)
        grown = played.running(attempt=4, seconds=240)["status"]
        assert grown["nodes"] == {"desired": 2, "ready": 2, "failed": 0, "worldSize": 2}
        attempts.append(Drawn(namespace, "elastic", 4, 2))
        fixed = Played.create(api, namespace, training("fixed"))
        done = played.wait("done", 240, phase="Succeeded")
        fixed.wait("the run that loses nothing is done", 240, phase="Succeeded")
    finally:
        seats(api, None)
    for attempt in attempts:
        attempt.close()
    once_an_epoch(attempts)
    compared(done["status"], fixed.status)
    assert (done["status"]["restarts"], done["status"].get("restartsCountTowardsMax", 0)) == (3, 0)
    accounted(done)


def compared(elastic_run: Object, fixed_run: Object) -> None:
    """The figures of the run that changed its size beside those of the run that did not."""
    accuracy, loss = (
        [float(status["progress"]["metrics"][name]) for status in (elastic_run, fixed_run)]
        for name in ("accuracy", "loss")
    )
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.03), (accuracy, loss)
    assert loss[0] == pytest.approx(loss[1], rel=0.1), (accuracy, loss)
