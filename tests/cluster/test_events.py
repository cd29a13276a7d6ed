"""Events of the operator on the real API server: counted up, not multiplied, and limited in number."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cluster.kubernetes_api import Object
from cluster.laboratory import Laboratory
from modelyard_operator.cluster import Cluster
from modelyard_operator.events import BURST, EventRecorder
from modelyard_operator.plan import Event

RESTARTED = Event(type="Warning", reason="GangRestarted", message="rank 1 was killed: attempt 2 begins")
WAITS = Event(reason="WaitsForNodes", message="0 of 2 pods have a node")
SECONDS = 20


@asynccontextmanager
async def process(laboratory: Laboratory) -> AsyncIterator[EventRecorder]:
    """The part of an operator's process that records Events."""
    kubeconfig = laboratory.open_proxy().kubeconfig(laboratory.directory / "events.kubeconfig")
    cluster = await Cluster.connect(str(kubeconfig))
    recorder = EventRecorder(cluster)
    writing = asyncio.create_task(recorder.run())
    yield recorder
    writing.cancel()
    await cluster.close()


def parent(laboratory: Laboratory, name: str) -> Object:
    """Anything that has a uid: a claim that nobody binds."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "none"}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
    return laboratory.api.create(body, laboratory.namespace)


def of(laboratory: Laboratory, parent: Object) -> list[Object]:
    """Our Events about an object."""
    found = laboratory.api.list("Event", laboratory.namespace)
    mine = [e for e in found if e["involvedObject"].get("uid") == parent["metadata"]["uid"]]
    return [e for e in mine if e["source"].get("component") == "modelyard"]


async def counted(laboratory: Laboratory, parent: Object, expected: dict[str, int]) -> None:
    """Wait until there is one Event for each reason, with this count."""
    deadline = asyncio.get_running_loop().time() + SECONDS
    while True:
        found = of(laboratory, parent)
        counts = {event["reason"]: event["count"] for event in found}
        assert len(counts) == len(found)
        if counts == expected:
            return
        assert asyncio.get_running_loop().time() < deadline, counts
        await asyncio.sleep(0.1)


async def test_what_happens_again_is_counted_up_by_the_next_process_too(laboratory: Laboratory) -> None:
    claim = parent(laboratory, "counted-events")
    async with process(laboratory) as recorder:
        for event in (RESTARTED, WAITS, RESTARTED, RESTARTED):
            recorder.record(claim, event)
        await counted(laboratory, claim, {"GangRestarted": 3, "WaitsForNodes": 1})
    async with process(laboratory) as recorder:
        recorder.record(claim, RESTARTED)
        recorder.record(claim, RESTARTED)
        await counted(laboratory, claim, {"GangRestarted": 5, "WaitsForNodes": 1})
        for gone in of(laboratory, claim):  # as the API server does after an hour
            laboratory.api.delete("Event", laboratory.namespace, gone["metadata"]["name"])
        recorder.record(claim, RESTARTED)
        await counted(laboratory, claim, {"GangRestarted": 1})


async def test_an_object_that_makes_noise_is_cut_off_alone(laboratory: Laboratory) -> None:
    loud, quiet = parent(laboratory, "loud-events"), parent(laboratory, "quiet-events")
    async with process(laboratory) as recorder:
        for _ in range(3 * BURST):
            recorder.record(loud, RESTARTED)
        recorder.record(quiet, WAITS)  # written last
        await counted(laboratory, quiet, {"WaitsForNodes": 1})
        await counted(laboratory, loud, {"GangRestarted": BURST})
