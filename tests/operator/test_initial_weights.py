"""A training that begins from another one's artifact: what is waited for, what is pinned, what is said."""

from __future__ import annotations

from typing import Any

import pytest
from modelyard_operator.plan import Object
from modelyard_operator.store import Store
from trainings_world import to_running, world

DIGEST = "sha256:" + "a" * 64
ARTIFACT = {"name": "best", "step": 9, "uri": "pvc://bert-output/artifacts/sha256-aa", "digest": DIGEST, "task": "t"}


def other(finished: str, succeeded: str, **status: Any) -> Object:
    conditions = [
        {"type": type_, "status": value, "reason": "R", "message": "out of memory"}
        for type_, value in (("Finished", finished), ("Succeeded", succeeded))
    ]
    return {"kind": "ModelTraining", "metadata": {"name": "bert"}, "status": {"conditions": conditions, **status}}


def test_the_artifact_is_waited_for_and_pinned() -> None:
    w = world(model={"uri": "training://bert"})
    w.training = other("False", "Unknown", phase="Running")
    w.settle()
    assert ("Pod", "demo-1-0") not in w.objects
    assert w.status["phase"] == "Pending"
    assert w.condition("Scheduled")["reason"] == "TrainingNotFinished"
    assert 'ModelTraining "bert" is Running; this one begins when it is done' in w.condition("Scheduled")["message"]
    w.wait(10_000)
    w.settle()
    assert w.status["phase"] == "Pending", "no deadline runs while there is nothing to begin from"

    w.training = other("True", "True", artifacts=[ARTIFACT])
    w.settle()
    assert w.status["model"] == {
        "source": "training/bert",
        "artifact": "best",
        **{k: v for k, v in ARTIFACT.items() if k != "name"},
    }
    w.edit(model={"uri": "training://bert/final"})
    w.training = other("True", "True", artifacts=[{**ARTIFACT, "name": "final", "step": 12}])
    w.settle()
    assert (w.status["model"]["artifact"], w.status["model"]["step"]) == ("final", 12), "the spec names another"
    w.training = None
    to_running(w)
    assert w.status["phase"] == "Running", "what was pinned stays, whatever becomes of the other training"


@pytest.mark.parametrize(
    ("uri", "found", "reason", "words"),
    [
        ("training://bert", None, "TrainingNotFound", 'there is no ModelTraining "bert"'),
        ("training://demo", None, "TrainingNotFound", "names this training itself"),
        ("training://bert", other("True", "False"), "TrainingFailed", 'ModelTraining "bert" failed: out of memory'),
        ("training://bert/final", other("True", "True", artifacts=[ARTIFACT]), "ArtifactMissing", "it has: best"),
    ],
)
def test_what_cannot_be_begun_from_is_said(uri: str, found: Object | None, reason: str, words: str) -> None:
    w = world(model={"uri": uri})
    w.training = found
    w.settle()
    assert w.status["phase"] == "Stalled"
    assert w.condition("Stalled")["reason"] == reason
    assert words in w.condition("Stalled")["message"]
    w.edit(model={"uri": ""})
    to_running(w)
    assert w.status["phase"] == "Running", "mending the spec mends the training"


def test_the_store_wakes_who_begins_from_a_training() -> None:
    store = Store()

    def put(name: str, version: int, **spec: Any) -> set[str]:
        meta = {"name": name, "namespace": "ns", "uid": f"u-{name}", "resourceVersion": str(version)}
        return {
            key.name for key in store.put("ModelTraining", {"kind": "ModelTraining", "metadata": meta, "spec": spec})
        }

    put("tuned", 1, model={"uri": "training://bert/best"})
    assert put("bert", 2) == {"bert", "tuned"}
    put("tuned", 3, model={"uri": "hf://bert"})
    assert put("bert", 4) == {"bert"}
    put("odd", 5, model=["no", "object"])
