"""Every child deleted, edited or stripped is brought back; a gang is restarted only when a pod is really gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played, service, training

pytestmark = pytest.mark.side_by_side(seconds=25)

SECONDS = 30
Harm = Callable[[KubernetesApi, Object], None]


def strip_labels(api: KubernetesApi, child: Object) -> None:
    change(api, child, {"metadata": {"labels": dict.fromkeys(child["metadata"]["labels"])}})


def strip_parent_label(api: KubernetesApi, child: Object) -> None:
    labels = {k: None for k in child["metadata"]["labels"] if k in ("modelyard.dev/training", "modelyard.dev/service")}
    change(api, child, {"metadata": {"labels": labels}})


def strip_owner(api: KubernetesApi, child: Object) -> None:
    change(api, child, {"metadata": {"ownerReferences": None}})


def delete(api: KubernetesApi, child: Object) -> None:
    api.delete(child["kind"], child["metadata"]["namespace"], child["metadata"]["name"], grace_seconds=0)


def change(api: KubernetesApi, child: Object, patch: Object) -> None:
    api.patch(child["kind"], child["metadata"]["namespace"], child["metadata"]["name"], patch)


def edit_ports(api: KubernetesApi, child: Object) -> None:
    change(api, child, {"spec": {"ports": [{"name": "other", "port": 81}], "selector": {"app": "other"}}})


def edit_template(api: KubernetesApi, child: Object) -> None:
    container = {**child["spec"]["template"]["spec"]["containers"][0], "image": "registry.invalid/other:1"}
    change(api, child, {"spec": {"replicas": 3, "template": {"spec": {"containers": [container]}}}})


def like(wanted: Object) -> Object:
    """What must be there again: labels, owner and spec."""
    meta = wanted["metadata"]
    kept = {k: v for k, v in wanted["spec"].items() if k not in ("clusterIP", "clusterIPs", "volumeName", "nodeName")}
    return {"labels": meta["labels"], "owners": meta.get("ownerReferences"), "spec": kept}


def restored(api: KubernetesApi, child: Object) -> Object:
    """The child as it was, in time."""
    kind, meta = child["kind"], child["metadata"]
    found: list[Any] = []

    def there() -> Object | None:
        now = api.find(kind, meta["namespace"], meta["name"])
        found[:] = [now]
        return now if now is not None and "labels" in now["metadata"] and like(now) == like(child) else None

    return eventually(f"{kind} {meta['name']} is as it was", there, SECONDS, lambda: found)


SERVICE_HARMS: tuple[tuple[str, Harm], ...] = (
    *(("Service", harm) for harm in (delete, strip_labels, strip_parent_label, strip_owner, edit_ports)),
    *(("Deployment", harm) for harm in (delete, strip_labels, strip_parent_label, strip_owner, edit_template)),
)


def harm_id(value: object) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize(("kind", "harm"), SERVICE_HARMS, ids=harm_id)
def test_a_child_of_a_service_comes_back(laboratory: Laboratory, kind: str, harm: Harm) -> None:
    name = f"drift-{kind.lower()}-{harm.__name__.replace('_', '-')}"
    served = Played.create(laboratory.api, laboratory.namespace, service(name, {"uri": "pvc://drift/model"}))
    child = eventually("children", lambda: next(iter(served.children(kind)), None))
    eventually("both children", lambda: len(served.children("Service", "Deployment")) == 2)
    harm(laboratory.api, laboratory.api.get(kind, served.namespace, child["metadata"]["name"]) | {"kind": kind})
    restored(laboratory.api, child)


@pytest.mark.parametrize("harm", [delete, strip_labels, strip_parent_label, strip_owner, edit_ports], ids=harm_id)
def test_the_service_of_a_gang_comes_back_and_the_gang_goes_on(laboratory: Laboratory, harm: Harm) -> None:
    name = f"drift-peers-{harm.__name__.replace('_', '-')}"
    played = Played.create(laboratory.api, laboratory.namespace, training(name, nodes=2))
    played.running()
    child = played.children("Service")[0]
    harm(laboratory.api, child)
    restored(laboratory.api, child)
    assert played.running()["status"].get("restarts", 0) == 0


@pytest.mark.parametrize("harm", [strip_labels, strip_parent_label, strip_owner], ids=harm_id)
def test_a_pod_that_was_stripped_is_taken_back_and_the_gang_goes_on(laboratory: Laboratory, harm: Harm) -> None:
    name = f"drift-pod-{harm.__name__.replace('_', '-')}"
    played = Played.create(laboratory.api, laboratory.namespace, training(name, nodes=2))
    played.running()
    child = next(p for p in played.children("Pod") if p["metadata"]["name"] == f"{name}-1-1")
    harm(laboratory.api, child)
    again = restored(laboratory.api, child)
    assert again["metadata"]["uid"] == child["metadata"]["uid"]
    assert played.running(attempt=1)["status"].get("restarts", 0) == 0


def test_a_deleted_pod_of_a_running_gang_restarts_the_gang_uncounted(laboratory: Laboratory) -> None:
    played = Played.create(laboratory.api, laboratory.namespace, training("drift-gone", nodes=2))
    played.running()
    laboratory.api.delete("Pod", played.namespace, "drift-gone-1-1", grace_seconds=0)
    status = played.running(attempt=2, seconds=SECONDS)["status"]
    assert (status["restarts"], status["restartsCountTowardsMax"]) == (1, 0)
    assert status["lastFailure"]["rule"] == "infrastructure"


@pytest.mark.parametrize("harm", [strip_labels, strip_parent_label, strip_owner], ids=harm_id)
def test_a_stripped_output_claim_is_taken_back(laboratory: Laboratory, harm: Harm) -> None:
    name = f"drift-claim-{harm.__name__.replace('_', '-')}"
    body = training(name, output={"retentionPolicy": "Delete"})
    played = Played.create(laboratory.api, laboratory.namespace, body)
    played.running()
    child = played.children("PersistentVolumeClaim")[0]
    harm(laboratory.api, child)
    assert restored(laboratory.api, child)["metadata"]["uid"] == child["metadata"]["uid"]


def test_a_deleted_output_claim_is_made_anew_for_the_next_attempt(laboratory: Laboratory) -> None:
    played = Played.create(laboratory.api, laboratory.namespace, training("drift-lost"))
    played.running()
    played.edit(suspend=True)
    played.wait("suspended", phase="Suspended")
    child = played.children("PersistentVolumeClaim")[0]
    delete(laboratory.api, child)
    eventually("the claim is gone", lambda: not played.children("PersistentVolumeClaim"))
    played.edit(suspend=False)
    played.running(attempt=2)
    assert played.children("PersistentVolumeClaim")[0]["metadata"]["uid"] != child["metadata"]["uid"]
