"""What servers and routers tell becomes what `sync` sees: real HTTP, pods as the watch shows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from modelyard_operator import measuring
from modelyard_operator.measuring import Measuring
from modelyard_operator.objects import LABEL_COMPONENT, LABEL_REVISION, LABEL_SERVICE, MANAGED_BY, MANAGER, ROUTER
from modelyard_operator.plan import Key, Object
from modelyard_operator.readings import Counters, read_exposition
from modelyard_operator.service.runtime import Installation, LoadMetrics, RuntimeProfile
from modelyard_operator.store import Store
from modelyard_operator.workqueue import WorkQueue
from routing import server

EXPOSITION = """# HELP vllm:num_requests_running x
vllm:num_requests_running{model_name="a",engine="0"} 3.0
vllm:num_requests_running{model_name="a",engine="1"} 1.0
vllm:num_requests_waiting{model_name="a"} 2.0
vllm:generation_tokens_total{model_name="a"} 1.5e+03
vllm:num_requests_running_created 9
"""
KEY = Key("ModelService", "ns", "demo")


def test_the_names_of_a_profile_are_summed_over_their_labels() -> None:
    metrics = LoadMetrics(
        in_flight=["vllm:num_requests_running", "vllm:num_requests_waiting"], tokens=["vllm:generation_tokens_total"]
    )
    assert read_exposition(EXPOSITION, metrics) == Counters(in_flight=6.0, tokens=1500.0)


def world(port: int, **spec: Any) -> tuple[Store, Measuring]:
    """A service whose pods are all at one address of this machine."""
    store = Store()
    body = {"scaling": {"maxReplicas": 3}, "runtime": "here", **spec}
    meta = {"name": "demo", "namespace": "ns", "uid": "u", "resourceVersion": "1"}
    store.put("ModelService", {"kind": "ModelService", "metadata": meta, "spec": body})
    here = RuntimeProfile(port=port, metrics=LoadMetrics(path="/v2/health/load"))
    return store, Measuring(store, WorkQueue[Key](), Installation(workloads_image="i", runtimes={"here": here}))


def pod(name: str, labels: dict[str, str], *, ready: bool = True, ending: bool = False, **status: Any) -> Object:
    meta: Object = {"name": name, "namespace": "ns", "uid": name, "resourceVersion": "1"}
    meta["labels"] = {MANAGED_BY: MANAGER, LABEL_SERVICE: "demo", **labels}
    if ending:
        meta["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {"metadata": meta, "spec": {}, "status": {"podIP": "127.0.0.1", "conditions": conditions, **status}}


async def look(made: Measuring, store: Store) -> None:
    service = store.get(*KEY)
    assert service is not None
    async with aiohttp.ClientSession(timeout=measuring.TIMEOUT) as session:
        await made._measure(session, service)


def load(requests: Callable[[], int]) -> Callable[[web.Request], Any]:
    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/v2/health/load"
        count = requests()
        return web.json_response(
            {"inFlight": 1, "inFlightSeconds": count * 0.5, "requests": count, "tokens": 7 * count}
        )

    return handle


async def test_two_looks_make_rates_of_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    now, count = [100.0], [10]
    monkeypatch.setattr(measuring, "monotonic", lambda: now[0])
    async with server(load(lambda: count[0])) as port:
        store, made = world(port)
        store.put("Pod", pod("a", {LABEL_REVISION: "r"}))
        store.put("Pod", pod("b", {LABEL_REVISION: "r"}, ready=False))
        await look(made, store)
        now[0], count[0] = 102.0, 30
        await look(made, store)
    first, second = store.children(KEY).load.samples  # type: ignore[union-attr]
    assert (first.concurrency, first.rps) == (1.0, 0.0), "one look knows no rates"
    assert (second.concurrency, second.rps, second.tokens) == (5.0, 10.0, 70.0)


async def test_a_server_that_says_nothing_is_as_busy_as_the_others() -> None:
    async with server(load(lambda: 0)) as port:
        store, made = world(port)
        store.put("Pod", pod("a", {LABEL_REVISION: "r"}))
        store.put("Pod", pod("b", {LABEL_REVISION: "r"}, podIP="127.0.0.2"))
        await look(made, store)
    assert store.loads[KEY].samples[-1].concurrency == 2.0


ROUTER_STATUS = {
    "table": "t",
    "seconds": 9.5,
    "held": 2,
    "inFlight": 3,
    "idleSeconds": 4.0,
    "compared": 10,
    "agreed": 9,
    "revisions": {"r": {"requests": 5, "errors": 1, "latencies": {"10": 5}}},
}


async def test_routers_count_together_and_one_that_is_silent_or_ends_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/status"
        return web.json_response(ROUTER_STATUS)

    async with server(handle) as port:
        monkeypatch.setattr(measuring, "ADMIN_PORT", port)
        store, made = world(1)
        routers = {LABEL_COMPONENT: ROUTER}
        store.put("Pod", pod("a", routers))
        store.put("Pod", pod("b", routers))
        store.put("Pod", pod("c", routers, ending=True))
        await look(made, store)
        seen = store.loads[KEY].router
        assert seen is not None
        assert (seen.tables, seen.held, seen.in_flight, seen.idle_seconds) == (frozenset({"t"}), 6, 9, 4.0)
        assert (seen.traffic["r"].requests, seen.traffic["r"].latencies, seen.compared) == (10, {10: 10}, 20)
        store.put("Pod", pod("d", routers, podIP="127.0.0.2"))
        await look(made, store)
        silent = store.loads[KEY].router
        assert silent is not None
        assert (silent.tables, silent.idle_seconds) == (frozenset({"t", "unknown"}), 0.0)


async def test_a_download_is_as_far_as_its_slowest_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    done = iter((300, 200))

    async def handle(request: web.Request) -> web.Response:
        assert request.path == "/progress"
        return web.json_response({"doneBytes": next(done), "totalBytes": 1000})

    async with server(handle) as port:
        monkeypatch.setattr(measuring, "FETCH_PORT", port)
        store, made = world(1)
        loading: Any = {"initContainerStatuses": [{"name": "fetch", "state": {"running": {}}}]}
        for name in ("a", "b"):
            store.put("Pod", pod(name, {LABEL_REVISION: "r"}, ready=False, **loading))
        await look(made, store)
    download = store.loads[KEY].download
    assert download is not None
    assert (download.done_bytes, download.total_bytes) == (200, 1000)


async def test_nonsense_is_no_answer() -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text='{"inFlight": "many"}')

    async with server(handle) as port:
        store, made = world(port)
        store.put("Pod", pod("a", {LABEL_REVISION: "r"}))
        await look(made, store)
    assert store.loads[KEY].samples == ()
