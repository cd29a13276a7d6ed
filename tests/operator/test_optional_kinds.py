"""Kinds that a cluster may or may not have: what is seen of them, and what of a cluster that has them not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.objects import LABEL_SERVICE, MANAGED_BY, MANAGER
from modelyard_operator.optional_kinds import OptionalKinds
from modelyard_operator.plan import Key, Object
from modelyard_operator.store import Store, WatchAudit
from modelyard_operator.workqueue import WorkQueue

KEY = Key("ModelService", "ns", "demo")


def route(version: int) -> Object:
    labels = {MANAGED_BY: MANAGER, LABEL_SERVICE: "demo"}
    meta = {"name": "demo", "namespace": "ns", "uid": "r", "resourceVersion": str(version), "labels": labels}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta}


class Listings(Cluster):
    """A cluster of listings: what there is of each kind, or the code with which it is refused."""

    def __init__(self, **there: list[Object] | int) -> None:
        self.there = there

    async def list(self, kind: str, namespace: str | None, **_: Any) -> list[Object]:
        found = self.there.get(kind, 404)
        if isinstance(found, int):
            raise ApiError(found, "", f"{found} of {kind} in {namespace}")
        return found


class Looks:
    """Looks at a cluster, and the keys that are to be looked at after each."""

    def __init__(self, cluster: Cluster) -> None:
        self.store, self._queue = Store(), WorkQueue[Key]()
        self._optional = OptionalKinds(cluster, self.store, self._queue, [None], WatchAudit(self.store))

    async def look(self) -> list[Key]:
        await self._optional.look()
        keys = [await self._queue.get() for _ in range(len(self._queue))]
        for key in keys:
            self._queue.done(key)
        return keys


def test_a_route_is_seen_when_it_changes_and_when_it_goes() -> None:
    async def play() -> None:
        cluster = Listings(HTTPRoute=[route(1)])
        looks = Looks(cluster)
        assert await looks.look() == [KEY]
        assert [extra["kind"] for extra in looks.store.children(KEY).extras] == ["HTTPRoute"]
        assert await looks.look() == []
        cluster.there["HTTPRoute"] = [route(2)]
        assert await looks.look() == [KEY]
        cluster.there["HTTPRoute"] = []
        assert [await looks.look(), await looks.look()] == [[], [KEY]]
        assert looks.store.children(KEY).extras == ()

    asyncio.run(play())


@pytest.mark.parametrize("code", [403, 404])
def test_a_cluster_without_the_kind_has_none_of_it(code: int) -> None:
    async def play() -> None:
        cluster = Listings(HTTPRoute=[route(1)])
        looks = Looks(cluster)
        assert await looks.look() == [KEY]
        cluster.there["HTTPRoute"] = code
        assert [await looks.look(), await looks.look()] == [[], [KEY]]

    asyncio.run(play())


def test_what_was_refused_for_want_of_the_kind_is_tried_when_it_comes() -> None:
    async def play() -> None:
        cluster = Listings()
        looks = Looks(cluster)
        looks.store.refusals.add(KEY, route(1), "the cluster knows no HTTPRoute")
        other = {"kind": "Deployment", "metadata": {"name": "other"}}
        looks.store.refusals.add(Key("ModelService", "ns", "other"), other, "a quota")
        assert await looks.look() == []
        cluster.there["HTTPRoute"] = []
        assert [await looks.look(), await looks.look()] == [[KEY], []]

    asyncio.run(play())


def test_a_server_that_cannot_be_asked_is_not_one_without_routes() -> None:
    async def play() -> None:
        with pytest.raises(ApiError):
            await Looks(Listings(HTTPRoute=500)).look()

    asyncio.run(play())


def test_a_kind_that_nobody_defines_is_named() -> None:
    told = ApiError(404, "", "404 page not found").about(route(1))
    assert told == "the cluster knows no HTTPRoute of gateway.networking.k8s.io/v1; install what defines it"
    there = ApiError(404, "NotFound", 'namespaces "ns" not found')
    assert there.about(route(1)) == there.message
