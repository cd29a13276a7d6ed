"""Gangs in a queue of the real Kueue, for `make test-kueue`: admitted together, queued together, preempted together.

Not among the tests that always run: Kueue takes many minutes to build.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from cluster.foreign import apply, run
from cluster.kubernetes_api import Object, eventually
from cluster.kueue import kueue
from cluster.laboratory import Laboratory
from cluster.objects import Played

API = "kueue.x-k8s.io/v1beta2"
QUEUE = "modelyard-test"
PYTHON = "docker.io/library/python:3.13-slim"
# On the real node, whose kubelet ends pods as Kueue wants to see it: on a fake one they run until they are gone.
TRAINER = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
time.sleep(3600)
"""
TOLD_TO_END = "import os, signal; os.kill(1, signal.SIGUSR1)"
MILLICPUS = 20  # of one node


def queue(namespace: str, nodes: int) -> list[Object]:
    """A queue in the namespace with a quota for so many nodes, in which what is urgent displaces what is not."""
    flavor = {"name": QUEUE, "resources": [quota("cpu", f"{nodes * MILLICPUS}m"), quota("memory", "100Gi")]}
    group = {"coveredResources": ["cpu", "memory"], "flavors": [flavor]}
    spec: Object = {
        "namespaceSelector": {},
        "resourceGroups": [group],
        "preemption": {"withinClusterQueue": "LowerPriority"},
    }
    local = {"name": QUEUE, "namespace": namespace}
    return [
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": QUEUE}},
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": QUEUE}, "spec": spec},
        {"apiVersion": API, "kind": "LocalQueue", "metadata": local, "spec": {"clusterQueue": QUEUE}},
        {"apiVersion": API, "kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}, "value": 1000},
    ]


def quota(resource: str, amount: str) -> Object:
    return {"name": resource, "nominalQuota": amount}


def gang(name: str, **scheduling: str) -> Object:
    """Two nodes that wait until they are told to end."""
    resources = {"requests": {"cpu": f"{MILLICPUS}m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "64Mi"}}
    trainer = {"image": PYTHON, "command": ["python", "-c", TRAINER], "numNodes": 2, "resourcesPerNode": resources}
    spec = {
        "trainer": trainer,
        "output": {"size": "1Mi"},
        "failurePolicy": {"maxRestarts": 0, "backoffSeconds": 0},
        "runPolicy": {"terminationGracePeriodSeconds": 5},
        "scheduling": {"queueName": QUEUE, **scheduling},
    }
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelTraining", "metadata": {"name": name}, "spec": spec}


def gates(played: Played) -> list[bool]:
    """Of each pod that there is: is it held back?"""
    return [bool(pod["spec"].get("schedulingGates")) for pod in played.children("Pod")]


def succeed(played: Played, attempt: int) -> None:
    for rank in (1, 0):
        eventually("a node has ended", partial(ended, played, f"{played.name}-{attempt}-{rank}"), 60, played.told)
    played.wait("done", phase="Succeeded")


def ended(played: Played, pod: str) -> bool:
    """Tell it, and look. What tells it may end together with it, or come before it listens."""
    with suppress(AssertionError):
        run("exec", "--namespace", played.namespace, pod, "--", "python", "-c", TOLD_TO_END)
    return bool(played.api.get("Pod", played.namespace, pod)["status"]["phase"] == "Succeeded")


def no_pods(played: Played) -> None:
    eventually(f"no pod of {played.name} is left", lambda: not played.children("Pod"), 120, played.told)


@pytest.mark.timeout(4800)
def test_kueue_admits_queues_and_preempts_whole_gangs(laboratory: Laboratory, tmp_path: Path) -> None:
    api, namespace = laboratory.api, laboratory.make_namespace("kueue")
    laboratory.start_operator([namespace])
    with kueue(namespace, tmp_path):
        apply(*queue(namespace, nodes=3))
        first = Played.create(api, namespace, gang("first"))
        first.running()
        assert gates(first) == [False, False], "the quota suffices for both, and both were let go"
        second = Played.create(api, namespace, gang("second"))
        second.wait("it waits in the queue", 60, phase="Queued")
        eventually("both of its pods are held back", lambda: gates(second) == [True, True], 60, second.told)
        succeed(first, 1)
        second.running()
        assert gates(second) == [False, False], "there was room for one; it was let go when there was for two"
        urgent = Played.create(api, namespace, gang("urgent", workloadPriorityClassName="urgent"))
        urgent.running(seconds=180)
        again = second.wait("it waits in the queue again", 120, phase="Queued", attempt=2)["status"]
        assert again["lastFailure"]["reason"] == "Preempted"
        assert again.get("restartsCountTowardsMax", 0) == 0
        eventually("the next attempt is held back", lambda: gates(second) == [True, True], 120, second.told)
        succeed(urgent, 1)
        second.running(attempt=2)
        second.edit(suspend=True)
        second.wait("suspended", phase="Suspended")
        no_pods(second)
        third = Played.create(api, namespace, gang("third"))
        third.running()  # a pause gives the quota back
        second.edit(suspend=False)
        second.wait("it waits in the queue once more", 60, phase="Queued", attempt=3)
        second.edit(suspend=True)
        no_pods(second)
        second.edit(suspend=False)
        fourth = Played.create(api, namespace, gang("fourth"))
        fourth.wait("it waits in the queue", 60, phase="Queued")
        fourth.delete()
        fourth.wait_gone()
        no_pods(fourth)
        succeed(third, 1)
        second.wait("it goes on", 120, phase="Running")
        succeed(second, second.status["attempt"])
