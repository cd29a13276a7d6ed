"""The life of trainings and services, from the first pod to the last: what is made, what is kept, what is gone."""

from __future__ import annotations

import json

import pytest
from cluster.kubernetes_api import Object, Refused, eventually
from cluster.laboratory import Laboratory, condition, reason
from cluster.objects import Played, artifacts, failure, service, training

pytestmark = pytest.mark.side_by_side(seconds=20)


def start(laboratory: Laboratory, name: str, nodes: int = 1, **spec: object) -> Played:
    played = Played.create(laboratory.api, laboratory.namespace, training(name, nodes, **spec))
    played.running()
    return played


def test_suspend_ends_the_pods_and_resume_begins_the_next_attempt_on_the_same_output(laboratory: Laboratory) -> None:
    played = start(laboratory, "suspend", nodes=2)
    claim = laboratory.api.get("PersistentVolumeClaim", played.namespace, "suspend-output")
    played.edit(suspend=True)
    played.wait("suspended", phase="Suspended")
    eventually("no pods while suspended", lambda: not played.children("Pod"))
    played.edit(suspend=False)
    resumed = played.running(attempt=2)
    assert condition(resumed, "Suspended") == "False"
    assert resumed["status"].get("restarts", 0) == 0
    kept = laboratory.api.get("PersistentVolumeClaim", played.namespace, "suspend-output")
    assert kept["metadata"]["uid"] == claim["metadata"]["uid"]
    assert sorted(p["metadata"]["name"] for p in played.children("Pod")) == ["suspend-2-0", "suspend-2-1"]


def test_a_training_created_suspended_makes_no_pods_until_it_is_resumed(laboratory: Laboratory) -> None:
    body = training("born-suspended", suspend=True)
    played = Played.create(laboratory.api, laboratory.namespace, body)
    played.wait("suspended", phase="Suspended")
    assert not played.children("Pod")
    played.edit(suspend=False)
    played.running(attempt=1)


@pytest.mark.parametrize("retention", ["Retain", "Delete"])
def test_deletion_leaves_nothing_but_an_output_that_is_to_be_retained(laboratory: Laboratory, retention: str) -> None:
    name = f"deleted-{retention.lower()}"
    played = start(laboratory, name, nodes=2, output={"retentionPolicy": retention})
    played.delete()
    played.wait_gone()
    eventually("pods and Service are gone", lambda: not played.children("Pod", "Service"), 60)
    if retention == "Delete":
        eventually("the claim is gone", lambda: not played.children("PersistentVolumeClaim"), 60)
    else:
        assert [c["metadata"]["name"] for c in played.children("PersistentVolumeClaim")] == [f"{name}-output"]


def test_deletion_while_no_operator_runs_leaves_nothing(laboratory: Laboratory) -> None:
    namespace = laboratory.make_namespace("deletion")
    operator, _ = laboratory.start_operator([namespace])
    body = training("orphan", nodes=2, output={"retentionPolicy": "Delete"})
    played = Played.create(laboratory.api, namespace, body)
    served = Played.create(laboratory.api, namespace, service("orphan-service", {"uri": "pvc://orphan-output/a"}))
    played.running()
    served.wait("ready", phase="Ready")
    operator.kill()
    played.delete()
    served.delete()
    played.wait_gone()
    served.wait_gone()
    eventually("nothing is left", lambda: not played.children("Pod", "Service", "PersistentVolumeClaim"))
    eventually("nothing is left", lambda: not served.children("Deployment", "Service", "Pod"))


def test_failures_are_restarted_with_back_off_until_the_budget_is_used_up(laboratory: Laboratory) -> None:
    played = start(laboratory, "failing", failurePolicy={"maxRestarts": 1, "backoffSeconds": 2})
    played.end(1, 0, 1, json.dumps({"failure": {"rank": 0, "message": "no step was made"}}))
    waiting = played.wait("waits to restart", attempt=2)
    assert not laboratory.api.find("Pod", played.namespace, "failing-2-0"), "back-off"
    assert waiting["status"]["restartsCountTowardsMax"] == 1
    played.running(attempt=2)
    played.end(2, 0, 1, failure("loss is NaN"))
    status = played.wait("failed", phase="Failed")["status"]
    last = status["lastFailure"]
    assert (last["rule"], last["action"], last["exitCode"]) == ("maxRestarts", "Fail", 1)
    assert (last["exceptionType"], last["message"], last["podName"]) == ("ValueError", "loss is NaN", "failing-2-0")
    assert "loss is NaN" in next(c["message"] for c in status["conditions"] if c["type"] == "Succeeded")
    assert status["restarts"] == 1


def test_a_checkpointed_exit_is_restarted_and_not_counted(laboratory: Laboratory) -> None:
    played = start(laboratory, "checkpointed", failurePolicy={"maxRestarts": 0})
    played.end(1, 0, 75, failure("told to end", 75))
    status = played.running(attempt=2)["status"]
    assert (status["restarts"], status["restartsCountTowardsMax"]) == (1, 0)
    assert status["lastFailure"]["rule"] == "checkpointed"


def test_a_configuration_error_fails_at_once(laboratory: Laboratory) -> None:
    played = start(laboratory, "misconfigured", nodes=2)
    played.end(1, 0, 64, failure("parameters.model: no such architecture", 64))
    status = played.wait("failed", phase="Failed")["status"]
    assert (status["lastFailure"]["rule"], status["attempt"]) == ("configuration", 1)
    assert "no such architecture" in status["lastFailure"]["message"]
    eventually("the survivor of the gang is ended", lambda: len(played.children("Pod")) == 1)


def test_a_failed_rank_restarts_the_whole_gang_once(laboratory: Laboratory) -> None:
    played = start(laboratory, "gang", nodes=3)
    played.end(1, 2, 1, failure("out of data"))
    played.running(attempt=2)
    names = sorted(p["metadata"]["name"] for p in played.children("Pod"))
    assert [n for n in names if n.startswith("gang-2-")] == ["gang-2-0", "gang-2-1", "gang-2-2"]
    eventually("pods of the first attempt are gone", lambda: len(played.children("Pod")) == 3)


def test_a_finished_training_is_deleted_after_its_time_to_live(laboratory: Laboratory) -> None:
    played = start(laboratory, "short-lived", runPolicy={"ttlSecondsAfterFinished": 2})
    played.end(1, 0, 0, artifacts("short-lived-output"))
    played.wait_gone()
    eventually("its pods are gone", lambda: not played.children("Pod"))


def test_a_training_that_is_not_done_in_its_active_time_fails_and_its_pods_go(laboratory: Laboratory) -> None:
    played = start(laboratory, "overlong", nodes=2, runPolicy={"activeDeadlineSeconds": 3})
    status = played.wait("failed", 30, phase="Failed")["status"]
    assert (status["lastFailure"]["reason"], status.get("restarts", 0)) == ("DeadlineExceeded", 0)
    assert "activeDeadlineSeconds, 3 s" in status["lastFailure"]["message"]
    eventually("its pods are gone", lambda: not played.children("Pod"))


def test_a_training_that_does_not_start_in_time_fails_with_the_reason_and_frees_its_places(
    laboratory: Laboratory,
) -> None:
    limits = {"resourcesPerNode": {"limits": {"nvidia.com/gpu": 5}}}  # a fake node has 8: no two fit on one
    apart = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [beside("unstartable")]}}
    body = training("unstartable", 2, trainer=limits, runPolicy={"startupDeadlineSeconds": 8})
    body["spec"]["pod"] = {**body["spec"]["pod"], "affinity": apart}
    played = Played.create(laboratory.api, laboratory.namespace, body)
    eventually("one of two has a place", lambda: played.status.get("nodes", {}).get("ready") == 1, 30, played.told)
    status = played.wait("failed", 60, phase="Failed")["status"]
    failed = status["lastFailure"]
    assert (failed["reason"], failed["rule"]) == ("Unschedulable", "startup")
    assert "not all nodes ran within 8 s" in failed["message"] and "Insufficient nvidia.com/gpu" in failed["message"]
    eventually("no place is held", lambda: not played.children("Pod"))


def beside(name: str) -> Object:
    """All pods of a training on one node."""
    labels = {"matchLabels": {"modelyard.dev/training": name}}
    return {"labelSelector": labels, "topologyKey": "kubernetes.io/hostname"}


def test_numbers_of_nodes_and_resources_are_changed_while_suspended(laboratory: Laboratory) -> None:
    played = start(laboratory, "reshaped", nodes=2)
    larger: Object = {"numNodes": 3, "resourcesPerNode": {"requests": {"cpu": "20m"}, "limits": {"memory": "96Mi"}}}
    with pytest.raises(Refused, match="suspend"):
        played.edit(trainer=larger)
    played.edit(suspend=True)
    played.wait("suspended", phase="Suspended")
    played.edit(trainer=larger)
    played.edit(suspend=False)
    assert played.running(attempt=2)["status"]["nodes"] == {"desired": 3, "ready": 3, "failed": 0, "worldSize": 3}
    pods = [pod for pod in played.children("Pod") if "-2-" in pod["metadata"]["name"]]
    assert [pod["spec"]["containers"][0]["resources"]["limits"]["memory"] for pod in pods] == ["96Mi"] * 3


@pytest.mark.parametrize(("policy", "left"), [("All", 0), ("Running", 1), ("None", 2)])
def test_pods_of_a_failed_training_go_by_the_clean_pod_policy(laboratory: Laboratory, policy: str, left: int) -> None:
    name = f"clean-{policy.lower()}"
    played = start(laboratory, name, nodes=2, runPolicy={"cleanPodPolicy": policy})
    played.end(1, 1, 64, failure("bad", 64))
    played.wait("failed", phase="Failed")
    eventually(f"{left} pods are left", lambda: len(played.children("Pod")) == left, told=lambda: played.told())


def test_a_refused_spec_that_is_put_right_goes_on(laboratory: Laboratory) -> None:
    body = training("refused", trainer={"parameters": {"epochs": "many"}})
    played = Played.create(laboratory.api, laboratory.namespace, body)
    refused = played.wait_reason("Accepted", "InvalidSpec")
    assert "epochs" in next(c["message"] for c in refused["status"]["conditions"] if c["type"] == "Accepted")
    assert reason(refused, "Stalled") == "InvalidSpec"
    played.edit(trainer={"parameters": {"epochs": 1}})
    assert condition(played.running(), "Accepted") == "True"


def test_a_service_is_suspended_and_resumed_with_the_same_revision(laboratory: Laboratory) -> None:
    body = service("pause", {"uri": "pvc://some-claim/model"}, model={"digest": artifact_digest()})
    claim(laboratory, "some-claim")
    played = Played.create(laboratory.api, laboratory.namespace, body)
    ready = played.wait("ready", phase="Ready")["status"]
    assert ready["url"] == f"http://pause.{played.namespace}.svc"
    played.edit(suspend=True)
    played.wait("suspended", phase="Suspended")
    eventually("no servers while suspended", lambda: not played.children("Pod"))
    played.edit(suspend=False)
    again = played.wait("ready again", phase="Ready")["status"]
    assert again["latestReadyRevision"] == ready["latestReadyRevision"]


def artifact_digest() -> str:
    return "sha256:" + "12" * 32


def claim(laboratory: Laboratory, name: str) -> None:
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
    laboratory.api.create(body, laboratory.namespace)
