"""The promise that a lost node is left in time: its kubelet falls silent, or the Node object goes."""

from __future__ import annotations

import random
import time
from functools import partial

from cluster.faults.promise import Bench, Promise
from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.objects import Played, training
from cluster.pool import pool

NODE_LOST_SECONDS = 40
"""The default; the cluster notices a silent kubelet after 50 s itself."""


def play(fault: str, bench: Bench, name: str, _chance: random.Random) -> list[str]:
    """The gang runs elsewhere within nodeLostSeconds + 60 s, and what is left on the lost node is deleted."""
    with pool(bench.api, f"{name}-{bench.namespace[-4:]}") as nodes:
        doomed = nodes.add(played=fault != "kubelet")
        body = training(name, runPolicy={"nodeLostSeconds": NODE_LOST_SECONDS, "terminationGracePeriodSeconds": 120})
        body["spec"]["pod"] = nodes.pod()
        began = time.monotonic()
        played = Played.create(bench.api, bench.namespace, body)
        try:
            pod = f"{name}-1-0"
            if fault == "kubelet":
                start_by_hand(bench.api, bench.namespace, pod)
            played.running()
            nodes.add()
            if fault == "node":
                nodes.lose(doomed)
                began = time.monotonic()
            moved = eventually("elsewhere", lambda: _elsewhere(played, doomed), NODE_LOST_SECONDS + 120, played.told)
            broken, seconds = [], time.monotonic() - began
            if seconds > NODE_LOST_SECONDS + 60:
                broken.append(f"it ran elsewhere after {seconds:.0f} s")
            failed = moved["lastFailure"]
            if (failed["reason"], failed["rule"], failed["nodeName"]) != ("NodeLost", "infrastructure", doomed):
                broken.append(f"the failure of {doomed} is told as {failed}")
            if moved.get("restartsCountTowardsMax", 0):
                broken.append("the restart was counted")
            eventually("the zombie is deleted", lambda: bench.api.find("Pod", bench.namespace, pod) is None)
            return broken
        finally:
            played.delete()
            eventually("its pods are gone", lambda: not played.children("Pod"))


def _elsewhere(played: Played, doomed: str) -> Object | None:
    """The status, once a later attempt runs on another node."""
    status = played.status
    if status["phase"] != "Running" or status["attempt"] == 1:
        return None
    pod = played.api.find("Pod", played.namespace, f"{played.name}-{status['attempt']}-0")
    return status if pod is not None and pod["spec"].get("nodeName") != doomed else None


def start_by_hand(api: KubernetesApi, namespace: str, pod: str) -> None:
    """Say of a pod what the kubelet would say when it runs."""

    def bound() -> bool:
        found = api.find("Pod", namespace, pod)
        return found is not None and bool(found["spec"].get("nodeName"))

    eventually("bound", bound)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    state = {"running": {"startedAt": now}}
    container = {"name": "trainer", "ready": True, "started": True, "restartCount": 0, "image": "i", "imageID": "i"}
    conditions = [{"type": t, "status": "True", "lastTransitionTime": now} for t in ("Ready", "ContainersReady")]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": [{**container, "state": state}]}
    api.patch("Pod", namespace, pod, {"status": status}, "status")


SILENT_KUBELET = Promise("silent kubelet", partial(play, "kubelet"))
LOST_NODE = Promise("lost node", partial(play, "node"))
