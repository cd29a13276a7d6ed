"""Beginning from the weights of another training, in real pods: it is waited for, pinned, and really begun from."""

from __future__ import annotations

import pytest
from cluster.kubernetes_api import Object
from cluster.laboratory import Laboratory
from cluster.objects import Played

NETWORK: Object = {"architecture": "test_resnet.r160_in1k", "batchSize": 64}


def training(name: str, parameters: Object, **spec: Object) -> Object:
    """A bundled trainer in a pod of its own, which fails for good at the first failure."""
    limits = {"limits": {"cpu": "1", "memory": "2Gi"}, "requests": {"cpu": "100m"}}
    trainer = {"builtin": "image-classification", "parameters": NETWORK | parameters, "resourcesPerNode": limits}
    base: Object = {
        "trainer": trainer,
        "dataset": {"uri": "example://digits"},
        "output": {"size": "64Mi"},
        "failurePolicy": {"maxRestarts": 0},
        "runPolicy": {"terminationGracePeriodSeconds": 1},
        **spec,
    }
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": {"name": name}, "spec": base}


@pytest.mark.side_by_side(seconds=60, busy=True)
def test_a_training_begins_from_the_artifact_of_another_that_it_waited_for(laboratory: Laboratory) -> None:
    api, namespace = laboratory.api, laboratory.namespace
    hardly = {"maxSteps": 1, "learningRate": 1e-9, "emaDecay": None}  # so it ends with what it began with
    tuned = Played.create(api, namespace, training("tuned", hardly, model={"uri": "training://learned/final"}))
    tuned.wait_reason("Scheduled", "TrainingNotFound")
    learned = Played.create(api, namespace, training("learned", {"epochs": 6}))
    tuned.wait_reason("Scheduled", "TrainingNotFinished")
    assert not tuned.children("Pod"), "nothing is started, and no place is held"
    artifacts = {a["name"]: a for a in learned.wait("done", 240, phase="Succeeded")["status"]["artifacts"]}
    done = tuned.wait("done", 240, phase="Succeeded")["status"]
    assert done["model"]["source"] == "training/learned"
    assert done["model"]["digest"] == artifacts["final"]["digest"], "pinned by its hash"
    began, ended = (float(a["metrics"]["accuracy"]) for a in (artifacts["final"], done["artifacts"][0]))
    assert began > 0.5, "one that has learned nothing guesses one of ten"
    assert ended == pytest.approx(began, abs=0.1), "one step moves the statistics of a batch, and nothing else"
