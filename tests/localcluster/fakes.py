"""Things that only the scheduler believes in: GPUs on the real node, and whole nodes played by kwok."""

import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from localcluster import components, golang, processes, settings, stages
from localcluster.api import Api, ApiError
from localcluster.layout import Layout, LocalClusterError
from localcluster.progress import say, step

GPU = "nvidia.com/gpu"
THREADS = 8
NODES = "/api/v1/nodes"
KWOK_NODES = f"{NODES}?labelSelector=type%3Dkwok"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
READY_SECONDS = 60
PODS = "/api/v1/pods"
KWOK_LABEL = {"type": "kwok"}
KWOK_TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
KWOK_CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "200", GPU: "8"}


def set_gpus(layout: Layout, count: int) -> None:
    """Give the real node `count` GPUs (0 takes them away). Pods that ask for them are placed, and find no device."""
    known = settings.load(layout)
    known.gpus = count
    settings.save(layout, known)
    _patch_gpus(layout, count)


def restore_gpus(layout: Layout) -> None:
    """After a start of the kubelet: the GPUs that were asked for before it, once it has stopped zeroing them."""
    count, api, steady = settings.load(layout).gpus, Api(layout), 0
    while count and steady < 3:
        time.sleep(0.5)
        present = api.get(f"{NODES}/{settings.load(layout).node}")["status"]["capacity"].get(GPU) == str(count)
        steady = steady + 1 if present else 0
        if not present:
            _patch_gpus(layout, count)


def _patch_gpus(layout: Layout, count: int) -> None:
    value = str(count) if count else None
    status = {"capacity": {GPU: value}, "allocatable": {GPU: value}}
    Api(layout).patch(f"{NODES}/{settings.load(layout).node}/status", {"status": status})


def set_kwok_nodes(layout: Layout, count: int) -> None:
    """Have exactly `count` fake nodes, kwok-0 on, and the controller that plays them while there are any."""
    wanted = {f"kwok-{number}" for number in range(count)}
    present = set(kwok_nodes(layout))
    if count:
        golang.build(layout, (golang.KWOK,))
        (layout.config / "kwok.yaml").write_text(stages.config())
        _start_kwok(layout, present)
    with step(f"going from {len(present)} to {count} fake nodes") if wanted != present else nullcontext():
        _each(layout, wanted - present, lambda api, name: api.create(NODES, node(name)))
        _remove_nodes(layout, present - wanted)
        _wait_until_ready(layout, wanted)
    if not count:
        processes.stop(layout, ["kwok"])


def resume_kwok(layout: Layout) -> None:
    """After a start of the cluster: kwok for the fake nodes that it had before. They still look Ready without one."""
    if present := kwok_nodes(layout):
        set_kwok_nodes(layout, len(present))


def _start_kwok(layout: Layout, present: set[str]) -> None:
    part = components.kwok(layout)
    if processes.is_current(layout, part):
        return
    processes.stop(layout, [part.name])
    # held by the kwok before it: a new one would leave those nodes alone until the leases end. Before it starts, since
    # it would go on trying to renew a lease that it has seen and that is gone.
    _each(layout, present, lambda api, name: _gone(api, f"{LEASES}/{name}", None))
    processes.start(layout, part)


def _wait_until_ready(layout: Layout, names: set[str]) -> None:
    api, deadline = Api(layout), time.monotonic() + READY_SECONDS
    while waiting := names - _ready(api.get(KWOK_NODES)["items"]):
        if not any(process.part == "kwok" for process in processes.running(layout)):
            raise LocalClusterError(f"kwok ended; its log:\n{processes.log_tail(layout, 'kwok')}")
        if time.monotonic() > deadline:
            raise LocalClusterError(
                f"{len(waiting)} of {len(names)} fake nodes are not Ready after {READY_SECONDS} s; kwok's log:\n"
                f"{processes.log_tail(layout, 'kwok')}"
            )
        time.sleep(0.2)


def _ready(nodes: list[dict[str, Any]]) -> set[str]:
    return {
        item["metadata"]["name"]
        for item in nodes
        for condition in item["status"].get("conditions", [])
        if condition["type"] == "Ready" and condition["status"] == "True"
    }


def node(name: str) -> dict[str, Any]:
    """A fake node: kwok's stages make it Ready; the taint keeps pods away that do not tolerate it."""
    labels = {**KWOK_LABEL, "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels, "annotations": {"kwok.x-k8s.io/node": "fake"}},
        "spec": {"taints": [KWOK_TAINT]},
        "status": {"capacity": KWOK_CAPACITY, "allocatable": KWOK_CAPACITY},
    }


def kwok_nodes(layout: Layout) -> list[str]:
    listed = Api(layout).get(KWOK_NODES)
    return [item["metadata"]["name"] for item in listed["items"]]


def _remove_nodes(layout: Layout, names: set[str]) -> None:
    if not names:
        return
    pods = [
        f"/api/v1/namespaces/{item['metadata']['namespace']}/pods/{item['metadata']['name']}"
        for item in Api(layout, timeout=60).get(PODS)["items"]
        if item["spec"].get("nodeName") in names
    ]
    if pods:
        say(f"deleting {len(pods)} pods of the nodes to be removed")
    _each(layout, pods, lambda api, path: _gone(api, path, 0))
    _each(layout, names, lambda api, name: _gone(api, f"{NODES}/{name}", None))


def _gone(api: Api, path: str, grace_seconds: int | None) -> None:
    try:
        api.delete(path, grace_seconds)
    except ApiError as error:
        if error.status != 404:
            raise


def _each(layout: Layout, items: Iterable[str], action: Callable[[Api, str], object]) -> None:
    """The action for every item, on a few threads, each with a connection of its own."""
    local = threading.local()

    def call(item: str) -> None:
        if not hasattr(local, "api"):
            local.api = Api(layout)
        action(local.api, item)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(call, item) for item in sorted(items)]:
            future.result()
