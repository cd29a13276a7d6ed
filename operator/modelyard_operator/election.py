"""Leader election by a Lease (coordination.k8s.io), with client-go's rules and its times: 15 s, 10 s, 2 s.

The official client has an election too, but its calls have no timeout that fits the renew deadline and it reads the
wall clock: a leader whose request hangs would go on leading after its lease ran out. Here every wait is bounded by
monotonic time, and a leader that could not renew in time ends the process before anybody else may take over.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from time import monotonic

from modelyard_operator import metrics
from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.plan import Object

log = logging.getLogger(__name__)

LEASE_SECONDS = 15
RENEW_DEADLINE_SECONDS = 10.0
RETRY_SECONDS = 2.0
RELEASE_ATTEMPTS = 3  # a renewal on its way when the process was told to end may arrive between reading and writing


class LeadershipLost(Exception):
    """The lease could not be renewed in time: this process must stop writing at once."""


class LeaderElection:
    """One candidate. `acquire` returns when it leads; `hold` returns never, it raises when the lead is lost."""

    def __init__(self, cluster: Cluster, *, namespace: str, name: str, identity: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._renewed = -LEASE_SECONDS * 1.0

    def is_valid(self) -> bool:
        """Whether the lease was renewed recently enough that nobody else can hold it by now."""
        return monotonic() - self._renewed < RENEW_DEADLINE_SECONDS

    async def acquire(self) -> None:
        while True:
            asked = monotonic()
            if await self._attempt():
                break
            await asyncio.sleep(RETRY_SECONDS)
        self._renewed = asked
        metrics.LEADER.set(1)
        log.info("leading as %s", self._identity)

    async def hold(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            asked = monotonic()
            left = self._renewed + RENEW_DEADLINE_SECONDS - asked
            try:
                if left > 0 and await asyncio.wait_for(self._attempt(), timeout=left):
                    self._renewed = asked
            except TimeoutError:
                pass
            if not self.is_valid():
                metrics.LEADER.set(0)
                raise LeadershipLost(f"lease {self._name} not renewed for {RENEW_DEADLINE_SECONDS:.0f} s")

    async def release(self) -> None:
        """Give the lease up, so that the next leader need not wait for it to run out."""
        for _ in range(RELEASE_ATTEMPTS):
            try:
                lease = await self._cluster.get("Lease", self._namespace, self._name)
                if lease["spec"].get("holderIdentity") == self._identity:
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._cluster.replace(lease)
                return
            except ApiError as error:
                log.info("lease not released: %s", error)
                if not error.conflict:
                    return

    async def _attempt(self) -> bool:
        """Create, renew or take over the lease; whether this candidate holds it now."""
        try:
            lease = await self._cluster.get("Lease", self._namespace, self._name)
        except ApiError as error:
            return await self._create() if error.not_found else self._missed(error)
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self._identity) and not self._expired(spec):
            return False
        now = _micro_time()
        spec |= {"renewTime": now, "leaseDurationSeconds": LEASE_SECONDS}
        if holder != self._identity:
            transitions = (spec.get("leaseTransitions") or 0) + 1
            spec |= {"holderIdentity": self._identity, "acquireTime": now, "leaseTransitions": transitions}
        try:
            await self._cluster.replace({**lease, "spec": spec})
        except ApiError as error:
            return self._missed(error)
        return True

    def _expired(self, spec: Object) -> bool:
        """By our own clock since we last saw it change: clocks of different machines are never compared."""
        seen = (spec.get("holderIdentity") or "", spec.get("renewTime") or "")
        if seen != self._seen:
            self._seen, self._seen_at = seen, monotonic()
        return monotonic() - self._seen_at > (spec.get("leaseDurationSeconds") or LEASE_SECONDS)

    async def _create(self) -> bool:
        now = _micro_time()
        try:
            await self._cluster.create(
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self._name, "namespace": self._namespace},
                    "spec": {
                        "holderIdentity": self._identity,
                        "leaseDurationSeconds": LEASE_SECONDS,
                        "acquireTime": now,
                        "renewTime": now,
                        "leaseTransitions": 0,
                    },
                }
            )
        except ApiError as error:
            return self._missed(error)
        return True

    def _missed(self, error: ApiError) -> bool:
        if not (error.conflict or error.already_exists):
            log.warning("lease %s/%s: %s", self._namespace, self._name, error)
        return False


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
