"""How many GPUs are free: summed up from nodes and pods, read seldom, and from a real HTTP answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration
from modelyard_operator import cluster as api
from modelyard_operator.capacity import Capacity
from modelyard_operator.cluster import Cluster
from modelyard_operator.plan import Key, Object
from modelyard_operator.room import Room, held_by, offered_by, rooms, short_of
from routing import server

GPU = "nvidia.com/gpu"
KEY = Key("ModelTraining", "ns", "demo")


def node(name: str, gpus: str = "8", *, ready: str = "True", **spec: Any) -> Object:
    status = {
        "allocatable": {"cpu": "64", "memory": "1Ti", GPU: gpus},
        "conditions": [{"type": "Ready", "status": ready}],
    }
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def container(gpus: int, **more: Any) -> Object:
    return {"resources": {"limits": {GPU: str(gpus), "cpu": "1"}}, **more}


def pod(where: str, *gpus: int, before: tuple[Object, ...] = ()) -> Object:
    return {"spec": {"nodeName": where, "containers": [container(n) for n in gpus], "initContainers": list(before)}}


@pytest.mark.parametrize(
    ("found", "gpus"),
    [
        (pod("a", 2, 1), 3),
        (pod("a", 2, before=(container(5),)), 5),
        (pod("a", 2, before=(container(1, restartPolicy="Always"),)), 3),
        (pod("a", 1, before=(container(1, restartPolicy="Always"), container(4))), 5),
        (pod("a", 0), None),
    ],
    ids=["together", "largest before", "beside all the time", "before, beside one that stays", "none"],
)
def test_what_a_pod_keeps_from_others(found: Object, gpus: int | None) -> None:
    assert held_by(found).get(GPU) == gpus


@pytest.mark.parametrize(
    ("found", "gpus"),
    [(node("a"), 8), (node("a", ready="Unknown"), None), (node("a", unschedulable=True), None), (node("a", "0"), None)],
    ids=["ready", "silent", "cordoned", "broken"],
)
def test_what_a_node_offers(found: Object, gpus: int | None) -> None:
    assert offered_by(found).get(GPU) == gpus


def test_what_is_free_is_what_no_pod_holds() -> None:
    offered = {"a": {GPU: Decimal(8)}, "b": {GPU: Decimal(4)}}
    held = [("a", {GPU: Decimal(5)}), ("b", {GPU: Decimal(6)}), ("gone", {GPU: Decimal(1)})]
    assert rooms(offered, held) == {GPU: Room(nodes=2, total=Decimal(12), free=Decimal(3), most=Decimal(3))}


def test_what_the_scheduler_finds_short_is_named_once() -> None:
    message = "0/3 nodes are available: 1 Insufficient cpu, 2 Insufficient nvidia.com/gpu, 1 Insufficient cpu."
    assert short_of(message) == ["cpu", GPU]


class Api:
    """An API server with nodes and pods, which counts what is asked."""

    def __init__(self, nodes: list[Object], pods: list[Object], refused: bool = False) -> None:
        self.objects = {"nodes": nodes, "pods": pods}
        self.refused = refused
        self.asked: list[tuple[str, str]] = []

    async def answer(self, request: web.Request) -> web.Response:
        kind, query = request.path.rsplit("/", 1)[-1], request.query
        self.asked.append((kind, query.get("fieldSelector", "")))
        if self.refused:
            return web.json_response({"reason": "Forbidden", "message": "nodes is forbidden"}, status=403)
        begin, limit = int(query.get("continue", 0)), int(query["limit"])
        items = self.objects[kind][begin : begin + limit]
        more = {"continue": str(begin + limit)} if begin + limit < len(self.objects[kind]) else {}
        return web.json_response({"items": items, "metadata": more})


@asynccontextmanager
async def capacity(api_server: Api) -> AsyncIterator[tuple[Capacity, Callable[[], Any]]]:
    """And a function that waits until a training was woken."""
    async with server(api_server.answer) as port:
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{port}"
        cluster = Cluster(configuration)
        woken: asyncio.Queue[Key] = asyncio.Queue()
        try:
            yield Capacity(cluster, woken.put_nowait), woken.get
        finally:
            await cluster.close()


def waiting(message: str) -> Object:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"metadata": {"name": "demo-1-0"}, "spec": {}, "status": {"conditions": [condition]}}


SHORT = waiting("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")


async def test_it_is_read_once_for_all_page_by_page_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 2)
    told = Api([node("a"), node("b"), node("c", "4")], [pod("a", 8), pod("b", 3), pod("c", 4)])
    other = KEY._replace(name="other")
    async with capacity(told) as (made, woken):
        assert made.of(KEY, [SHORT]) == made.of(other, [SHORT]) == {}
        assert {await woken(), await woken()} == {KEY, other}
        room = {GPU: Room(nodes=3, total=Decimal(20), free=Decimal(5), most=Decimal(5))}
        assert made.of(KEY, [SHORT]) == made.of(other, [SHORT]) == room
        alive = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
        assert told.asked == [("nodes", "")] * 2 + [("pods", alive)] * 2
        told.objects["pods"].clear()
        assert made.of(KEY, [SHORT]) == room, "what was said stands for a while"


async def test_nothing_is_read_for_cores_for_placed_pods_or_without_the_right_to() -> None:
    told = Api([node("a")], [], refused=True)
    async with capacity(told) as (made, woken):
        assert made.of(KEY, [waiting("0/3 nodes are available: 3 Insufficient cpu.")]) == {}
        assert made.of(KEY, [{"metadata": {"name": "demo-1-0"}, "spec": {"nodeName": "a"}, "status": {}}]) == {}
        assert told.asked == []
        assert made.of(KEY, [SHORT]) == {}
        assert await woken() == KEY
        assert made.of(KEY, [SHORT]) == {}
        assert len(told.asked) == 1, "a refusal is not asked for again and again"
