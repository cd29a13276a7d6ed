"""Two short but complete lives, one of a training and one of a service, and what is left at their end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from cluster.fault_proxy import Write
from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.objects import DIGEST, Played, artifacts, failure, service, training

CLAIM = "models"
"""A claim in the namespace of every life: where the models of the services are."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_PASSING = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generateName", "selfLink")


@dataclass(frozen=True)
class Life:
    """`play` goes through it, waiting at each step for the operator; `kinds` are the children that it may have."""

    name: str
    play: Callable[[KubernetesApi, str, str], Played]
    kinds: tuple[str, ...]
    statuses: int
    """How many different statuses `play` waits for: so often the status is written at least."""


def play_training(api: KubernetesApi, namespace: str, name: str) -> Played:
    """Created, running on two nodes, a rank fails, restarted, suspended, resumed, succeeded with an artifact."""
    played = Played.create(api, namespace, training(name, nodes=2))
    played.running(attempt=1)
    played.end(1, 1, 1, failure("out of luck"))
    played.running(attempt=2)
    played.edit(suspend=True)
    played.wait("suspended", phase="Suspended")
    eventually("its pods are gone", lambda: not played.children("Pod"), told=played.told)
    played.edit(suspend=False)
    played.running(attempt=3)
    for rank in (1, 0):
        played.end(3, rank, 0, artifacts(f"{name}-output"))
    played.wait("succeeded", phase="Succeeded")
    return played


def play_service(api: KubernetesApi, namespace: str, name: str) -> Played:
    """Created before its training is there, resolved, ready, edited, on its second revision, suspended."""
    source = f"{name}-source"
    played = Played.create(api, namespace, service(name, {"trainingRef": {"name": source}}))
    played.wait_reason("ModelResolved", "TrainingNotFound")
    finish_training(api, namespace, source)
    first = played.wait("ready", phase="Ready")["status"]["latestReadyRevision"]
    played.edit(batching={"maxBatchSize": 8})

    def turned() -> bool:
        names = [d["metadata"]["name"] for d in played.children("Deployment")]
        ready = played.status.get("latestReadyRevision")
        return ready != first and names == [f"{name}-{ready}"]

    eventually("the second revision serves alone", turned, 120, played.told)
    played.edit(suspend=True)
    played.wait("suspended", phase="Suspended")
    eventually("its pods are gone", lambda: not played.children("Pod"), told=played.told)
    return played


def finish_training(api: KubernetesApi, namespace: str, name: str, digest: str = DIGEST, failed: str = "") -> None:
    """A training that another controller has brought to its end, so that our operator writes nothing of it."""
    api.create(training(name, managedBy="example.com/other"), namespace)
    result = json.loads(artifacts(CLAIM, digest))["result"]
    common = {"message": failed, "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1}
    reason = "Error" if failed else "Completed"
    conditions = [
        {"type": "Succeeded", "status": str(not failed), "reason": reason, **common},
        {"type": "Finished", "status": "True", "reason": reason, **common},
    ]
    status = {"conditions": conditions, "artifacts": [] if failed else result["artifacts"], "phase": "Succeeded"}
    api.patch("ModelTraining", namespace, name, {"status": status}, "status")


TRAINING_LIFE = Life("training", play_training, ("Pod", "Service", "PersistentVolumeClaim"), 5)
SERVICE_LIFE = Life("service", play_service, ("Deployment", "Service", "Pod"), 4)


def what_is_left(played: Played, kinds: tuple[str, ...]) -> str:
    """The object and all its children as text, without what is never the same: uids, versions, times, its own name."""
    objects = [played.observed, *played.children(*kinds)]
    uids = [obj["metadata"]["uid"] for obj in objects]
    text = json.dumps([_lasting(obj) for obj in objects], indent=1, sort_keys=True)
    for uid in uids:
        text = text.replace(uid, "UID")
    text = _TIME.sub("TIME", text.replace(played.name, "NAME").replace(played.namespace, "NAMESPACE"))
    revisions = (d["metadata"]["labels"]["modelyard.dev/revision"] for d in objects if d.get("kind") == "Deployment")
    for revision in {str(r) for r in (*revisions, played.status.get("latestReadyRevision") or "REVISION")}:
        text = text.replace(revision, "REVISION")
    return text


def what_was_written(write: Write) -> str:
    """What an object became by a write, without what is never the same: its status, if that was written, else the rest.

    The same text twice is a write that changed nothing, or one that went back to what was there before.
    """
    lasting = _lasting({"kind": "", **write.answer})
    status = lasting.pop("status", {})
    return _TIME.sub("TIME", json.dumps(status if write.path.endswith("/status") else lasting, sort_keys=True))


def _lasting(obj: Object) -> Object:
    kept = {k: v for k, v in obj.items() if k not in ("kind", "apiVersion")}
    kept["metadata"] = {k: v for k, v in obj["metadata"].items() if k not in _PASSING}
    if obj["kind"] == "Pod":
        status = obj.get("status") or {}
        kept["spec"] = {k: v for k, v in obj["spec"].items() if k != "nodeName"}
        kept["status"] = {"phase": status.get("phase")}
    if obj["kind"] == "PersistentVolumeClaim":
        kept["spec"] = {k: v for k, v in obj["spec"].items() if k != "volumeName"}
        kept["metadata"].pop("annotations", None)  # the volume controller's, which it writes one after the other
    if obj["kind"] == "Service":
        kept["spec"] = {k: v for k, v in obj["spec"].items() if k not in ("clusterIP", "clusterIPs")}
    if "goodput" in (kept.get("status") or {}):
        kept["status"] = {name: value for name, value in kept["status"].items() if name != "goodput"}  # seconds
    if "lastFailure" in (kept.get("status") or {}):
        kept["status"] = {**kept["status"], "lastFailure": {**kept["status"]["lastFailure"], "nodeName": "NODE"}}
    if obj["kind"] == "Deployment":
        kept["status"] = {"replicas": (obj.get("status") or {}).get("replicas", 0)}
    return kept
