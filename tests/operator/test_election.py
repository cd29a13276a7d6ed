"""A lease that is given up, also when a renewal was still on its way; a server of real HTTP plays the race."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration
from modelyard_operator.cluster import Cluster
from modelyard_operator.election import RELEASE_ATTEMPTS, LeaderElection
from modelyard_operator.plan import Object
from routing import server

ME, SOMEBODY_ELSE = "operator-0", "operator-1"


class LeaseServer:
    """One Lease with optimistic locking; the first `races` replacements meet a renewal that arrived just before."""

    def __init__(self, holder: str = ME, races: int = 0) -> None:
        self.spec: Object = {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": "first"}
        self.version = 1
        self.replacements = 0
        self._races = races

    async def answer(self, request: web.Request) -> web.Response:
        if request.method == "PUT":
            self.replacements += 1
            self.version += self.replacements <= self._races
            lease = await request.json()
            if lease["metadata"]["resourceVersion"] != str(self.version):
                return web.json_response({"kind": "Status", "code": 409, "reason": "Conflict"}, status=409)
            self.spec = lease["spec"]
        metadata = {"name": "lease", "namespace": "ns", "resourceVersion": str(self.version)}
        return web.json_response(
            {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": self.spec}
        )


@asynccontextmanager
async def candidate(leases: LeaseServer) -> AsyncIterator[LeaderElection]:
    async with server(leases.answer) as port:
        configuration = Configuration()
        configuration.host = f"http://127.0.0.1:{port}"
        cluster = Cluster(configuration)
        try:
            yield LeaderElection(cluster, namespace="ns", name="lease", identity=ME)
        finally:
            await cluster.close()


@pytest.mark.parametrize(
    ("holder", "races", "holder_after", "replacements"),
    [
        pytest.param(ME, 0, "", 1, id="given up"),
        pytest.param(ME, 1, "", 2, id="a renewal arrives first"),
        pytest.param(ME, 9, ME, RELEASE_ATTEMPTS, id="not for ever"),
        pytest.param(SOMEBODY_ELSE, 0, SOMEBODY_ELSE, 0, id="another's is left alone"),
    ],
)
async def test_a_lease_is_given_up(holder: str, races: int, holder_after: str, replacements: int) -> None:
    leases = LeaseServer(holder, races)
    async with candidate(leases) as election:
        await election.release()
    assert (leases.spec["holderIdentity"], leases.replacements) == (holder_after, replacements)


async def test_a_lease_given_up_is_taken_at_once() -> None:
    leases = LeaseServer(SOMEBODY_ELSE)
    leases.spec["holderIdentity"] = ""
    async with candidate(leases) as election:
        await election.acquire()
        assert election.is_valid()
    assert leases.spec["holderIdentity"] == ME
