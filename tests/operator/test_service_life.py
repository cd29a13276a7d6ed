"""Whole lives of a ModelService as golden traces (see test_training_life.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from modelyard_operator.service.runtime import RuntimeProfile
from modelyard_operator.service.sync import sync
from operator_worlds import DIGEST, INSTALLATION, available, crash, serves, training, world
from simulation import World, assert_golden


def waits_for_its_training(w: World) -> None:
    w.settle()
    w.training = training(phase="Running")
    w.trace.append("-- training: running")
    w.settle()
    w.trace.append("-- training: succeeded")
    serves(w)


def rolls_out_an_edit(w: World) -> None:
    serves(w)
    w.edit(batching={"maxBatchSize": 8})
    w.settle()
    available(w)
    w.settle()


def keeps_serving_while_the_new_revision_fails(w: World) -> None:
    serves(w)
    w.edit(batching={"maxBatchSize": 8})
    w.settle()
    revision = w.status["latestCreatedRevision"]
    crash(w, revision, 65, '{"failure": {"reason": "GoldenMismatch", "message": "logits differ"}}')
    w.settle()
    assert w.condition("Ready")["status"] == "True"
    assert w.condition("Validated")["reason"] == "GoldenMismatch"
    assert w.status["traffic"][0]["revisionName"] != revision


def follows_its_training(w: World) -> None:
    serves(w)
    w.training = training("sha256:" + "b" * 64)
    w.trace.append("-- training: another artifact")
    w.settle()
    available(w)
    w.settle()


def is_suspended(w: World) -> None:
    serves(w)
    w.edit(suspend=True)
    w.settle()


def is_edited_while_suspended(w: World) -> None:
    is_suspended(w)
    before = w.status["latestReadyRevision"]
    available(w)
    w.edit(batching={"maxBatchSize": 8})
    w.settle()
    assert w.status["latestReadyRevision"] == before, "a revision without servers has proven nothing"
    w.edit(suspend=False)
    w.settle()
    available(w)
    w.settle()
    assert w.status["latestReadyRevision"] == w.status["latestCreatedRevision"] != before


def is_suspended_from_the_start(w: World) -> None:
    w.edit(suspend=True)
    w.training = training()
    w.settle()
    available(w)
    w.settle()
    assert "latestReadyRevision" not in w.status
    w.edit(suspend=False)
    w.settle()
    available(w)
    w.settle()


def refuses_a_failed_training(w: World) -> None:
    w.training = training(phase="Failed", message="out of memory")
    w.settle()


@pytest.mark.parametrize(
    ("changes", "artifact", "reason"),
    [
        ({}, {"task": "image-classification"}, "GoldenAnswersReproduced"),
        ({"validation": {"golden": "Required"}}, {}, "GoldenAnswersReproduced"),
        ({}, {}, "ReproducedIfPresent"),
        ({"validation": {"golden": "Off"}}, {"task": "image-classification"}, None),
        ({"runtime": "vllm"}, {"task": "causal-lm"}, None),
    ],
)
def test_no_more_is_said_to_be_validated_than_was(
    changes: dict[str, Any], artifact: dict[str, str], reason: str | None
) -> None:
    profiles = {"vllm": RuntimeProfile(image="vllm:test")}
    w = world(installation=replace(INSTALLATION, runtimes=profiles), **changes)
    w.training = training()
    w.training["status"]["artifacts"][0] |= artifact
    w.settle()
    available(w)
    w.settle()
    assert w.condition("Ready")["status"] == "True"
    assert [c["reason"] for c in w.status["conditions"] if c["type"] == "Validated"] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("task", "changes", "told"),
    [
        ("causal-lm", {"generation": {"maxNumSeqs": 4}}, "the spec is valid"),
        ("causal-lm", {"batching": {"maxBatchSize": 4}}, "batching is not used: causal-lm is batched as generation."),
        ("recommendation", {"batching": {"maxBatchSize": 4}}, "the spec is valid"),
        ("recommendation", {"generation": {"maxNumSeqs": 4}}, "generation is not used: recommendation generates"),
    ],
)
def test_what_a_model_does_not_use_is_said_when_it_is_found(task: str, changes: dict[str, Any], told: str) -> None:
    w = world(**changes)
    w.settle()
    assert w.condition("Accepted")["message"] == "the spec is valid"
    w.training = training()
    w.training["status"]["artifacts"][0]["task"] = task
    w.settle()
    accepted = w.condition("Accepted")
    assert accepted["status"] == "True" and told in accepted["message"]
    assert ("not used" in accepted["message"]) == ("not used" in told)


LIVES = [
    serves,
    waits_for_its_training,
    rolls_out_an_edit,
    keeps_serving_while_the_new_revision_fails,
    is_suspended,
    is_edited_while_suspended,
    is_suspended_from_the_start,
    refuses_a_failed_training,
]


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
def test_a_service_that(life: Callable[[World], None]) -> None:
    w = world()
    life(w)
    assert_golden(f"service_{life.__name__}", w, "Ready")
    assert w.plan().status == w.status, "a quiet world is left alone"


def test_a_pinned_service_stays_with_its_artifact_until_it_is_edited() -> None:
    w = world()
    follows_its_training(w)
    assert w.status["model"]["digest"] == DIGEST
    w.edit(replicas=2)
    w.settle()
    assert w.status["model"]["digest"] == "sha256:" + "b" * 64


def test_a_following_service_makes_a_revision_of_each_artifact() -> None:
    w = world(model={"source": {"trainingRef": {"name": "digits", "policy": "Follow"}}})
    follows_its_training(w)
    assert w.status["model"]["digest"] == "sha256:" + "b" * 64
    assert len([kind for kind, _ in w.objects if kind == "Deployment"]) == 1


def test_scaling_and_limits_make_no_new_revision() -> None:
    w = world()
    serves(w)
    revision = w.status["latestReadyRevision"]
    w.edit(replicas=3, limits={"maxQueue": 7}, drain={"preStopSeconds": 1})
    w.settle()
    assert w.status["latestCreatedRevision"] == revision
    assert w.objects["Deployment", f"demo-{revision}"]["spec"]["replicas"] == 3


@pytest.mark.parametrize(("replicas", "ready"), [(1, "True"), (3, "False")])
def test_another_number_of_servers_takes_nothing_from_what_was_proven(replicas: int, ready: str) -> None:
    w = world(replicas=2)
    serves(w)
    w.edit(replicas=replicas)
    w.settle()
    deployment = w.objects["Deployment", f"demo-{w.status['latestReadyRevision']}"]
    deployment["metadata"]["generation"] = 2  # which the Deployment controller has not seen yet
    w.settle()
    assert w.condition("PredictorReady")["status"] == ready
    assert w.condition("ModelLoaded")["status"] == w.condition("Validated")["status"] == "True"
    assert w.condition("Ready")["reason"] == "Serving"


def test_a_required_digest_must_be_the_trainings() -> None:
    w = world(model={"source": {"trainingRef": {"name": "digits"}}, "digest": "sha256:" + "f" * 64})
    w.training = training()
    w.settle()
    assert w.condition("ModelResolved")["reason"] == "DigestMismatch"
    assert not [kind for kind, _ in w.objects if kind == "Deployment"]


def test_the_deployments_of_a_newer_spec_are_left_alone() -> None:
    w = world()
    serves(w)
    stale = dict(w.parent)
    w.edit(batching={"maxBatchSize": 8})
    w.settle()
    assert not sync(stale, w.children(), w.now, INSTALLATION).delete


def test_the_routes_say_what_is_missing() -> None:
    w = world()
    w.settle()
    assert w.condition("RoutesReady")["reason"] == "NoRevision", "its training is not there"
    serves(w)
    del w.objects["Service", "demo"]
    plan = w.plan()
    assert plan.status is not None
    routes = next(c for c in plan.status["conditions"] if c["type"] == "RoutesReady")
    assert (routes["reason"], routes["message"]) == ("NoService", "Service demo is not there")
    w.settle()
    assert w.condition("RoutesReady")["reason"] == "ServicePointsAtRevision", "it was made again"
