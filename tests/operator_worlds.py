"""Worlds of ModelServices for pure tests: a service, its training, and what the Deployment controller does."""

from __future__ import annotations

from functools import partial
from typing import Any

from modelyard_operator.load import Load, RouterLoad, Traffic
from modelyard_operator.objects import LABEL_REVISION, LABEL_TABLE, ROUTER
from modelyard_operator.plan import Object
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.sync import sync
from simulation import World

INSTALLATION = Installation(workloads_image="modelyard/workloads:test", router_image="modelyard/operator:test")
DIGEST = "sha256:" + "a" * 64


def world(installation: Installation = INSTALLATION, **changes: Any) -> World:
    spec = {"model": {"source": {"trainingRef": {"name": "digits"}}}, **changes}
    return World("ModelService", spec, partial(sync, installation=installation))


def training(digest: str = DIGEST, *, phase: str = "Succeeded", message: str = "") -> Object:
    done = phase in ("Succeeded", "Failed")
    conditions = [
        {"type": "Finished", "status": str(done), "message": message},
        {"type": "Succeeded", "status": str(phase == "Succeeded")},
    ]
    artifact = {"name": "best", "step": 9, "uri": f"pvc://digits-output/{digest[7:10]}", "digest": digest}
    status = {"phase": phase, "conditions": conditions, "artifacts": [artifact] if phase == "Succeeded" else []}
    return {"kind": "ModelTraining", "metadata": {"name": "digits", "namespace": "ns"}, "status": status}


def available(w: World, revision: str | None = None) -> None:
    """The Deployment controller reports all replicas of a revision available."""
    for (kind, name), deployment in w.objects.items():
        if kind == "Deployment" and (revision is None or name.endswith(revision)):
            replicas = deployment["spec"]["replicas"]
            counts = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
            deployment["status"] = dict.fromkeys(counts, replicas)
    w.trace.append("-- servers: available")


def serves(w: World) -> None:
    w.training = training()
    w.settle()
    available(w)
    w.settle()


def crash(w: World, revision: str, exit_code: int, message: str) -> None:
    """A server of a revision does not live: its pod, `demo-REVISION-x`, says how it ended the last time."""
    ended = {"terminated": {"exitCode": exit_code, "message": message}}
    status = {"phase": "Running", "containerStatuses": [{"name": "server", "lastState": ended}]}
    meta: Object = {"name": f"demo-{revision}-x", "namespace": "ns", "uid": "p", "labels": {LABEL_REVISION: revision}}
    w.objects["Pod", meta["name"]] = {"kind": "Pod", "metadata": meta, "spec": {"nodeName": "n"}, "status": status}


def routers_follow(w: World) -> None:
    """Pods of the routers with the table of their Deployment, and no others; what the Deployment controller does."""
    deployment = w.objects.get(("Deployment", "demo-router"))
    w.objects = {k: v for k, v in w.objects.items() if k != ("Pod", "demo-router-x")}
    if deployment is not None:
        labels = dict(deployment["spec"]["template"]["metadata"]["labels"])
        meta = {"name": "demo-router-x", "namespace": "ns", "uid": "r", "labels": labels}
        w.objects["Pod", "demo-router-x"] = {
            "kind": "Pod",
            "metadata": meta,
            "spec": {},
            "status": {"phase": "Running"},
        }
        available(w, ROUTER)
    w.settle()


def measured(w: World, new: Traffic, old: Traffic, seconds: float = 31, **fields: Any) -> None:
    """The routers report, and time passes."""
    table = w.objects["Deployment", "demo-router"]["spec"]["template"]["metadata"]["labels"][LABEL_TABLE]
    traffic = {w.status["latestCreatedRevision"]: new, w.status["traffic"][0]["revisionName"]: old}
    w.load = Load(router=RouterLoad(tables=frozenset({table}), seconds=seconds, traffic=traffic, **fields))
    w.wait(seconds)
    w.trace.append(f"-- routers: {new.requests} requests, {new.errors} failed")
    w.settle()
    routers_follow(w)
