"""/healthz, /readyz and /metrics, and the audit that makes /healthz honest.

Every ten seconds the kinds are listed directly, metadata only, and compared with what the watches brought.
A watch that is behind for most of a minute is dead, whatever its connection says: /healthz turns red, the kubelet
restarts the process. Deletions that a watch missed are made up for on the way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from modelyard_operator import metrics
from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.objects import MANAGED_SELECTOR, SERVICE, TRAINING
from modelyard_operator.optional_kinds import OptionalKinds
from modelyard_operator.plan import Key
from modelyard_operator.store import Store, WatchAudit
from modelyard_operator.watch import WATCHED_KINDS
from modelyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

AUDIT_SECONDS = 10.0
DEAD_AFTER_SECONDS = 40.0
"""With the audit's interval, red at the latest 60 s after a watch went deaf to a change: before the 70 s after which
a silent watch is opened anew, and a listing on that occasion hides for a moment that it hears nothing."""
RESYNC_SECONDS = 600.0
"""Everything is looked at again this often, whether or not an event came."""


class Health:
    """Audits the watches; answers the probes."""

    def __init__(self, cluster: Cluster, store: Store, queue: WorkQueue[Key], namespaces: Sequence[str]) -> None:
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._namespaces: tuple[str | None, ...] = tuple(namespaces) or (None,)
        self._audit = WatchAudit(store)
        self._optional = OptionalKinds(cluster, store, queue, self._namespaces, self._audit)
        self._lags: dict[str, float] = {}
        self._resynced = monotonic()
        self.synced = asyncio.Event()
        """Set when the watches have brought everything that was there at the start."""

    async def run(self) -> None:
        """Audit until cancelled: quickly until the start is complete, then at leisure."""
        while True:
            try:
                await self._look()
            except ApiError as error:
                # An unreachable server is no proof of a deaf watch; the lease decides whether to go on.
                log.warning("audit of the watches: %s", error)
            await asyncio.sleep(AUDIT_SECONDS if self.synced.is_set() else 0.2)

    async def _look(self) -> None:
        complete = True
        for kind in WATCHED_KINDS:
            selector = "" if kind in (TRAINING, SERVICE) else MANAGED_SELECTOR
            listing = [
                item
                for namespace in self._namespaces
                for item in await self._cluster.list(kind, namespace, labels=selector, metadata_only=True)
            ]
            complete = complete and all(
                self._store.get(kind, i["metadata"]["namespace"], i["metadata"]["name"]) is not None for i in listing
            )
            lag, missed = self._audit.compare(kind, listing, datetime.now(UTC))
            self._lags[kind] = lag
            metrics.WATCH_LAG.labels(kind).set(lag)
            for key in missed:
                self._queue.add(key)
        await self._optional.look()
        if complete:
            self.synced.set()
        if monotonic() - self._resynced > RESYNC_SECONDS:
            self._resynced = monotonic()
            for key in self._store.parents():
                self._queue.add(key)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        deaf = {kind: lag for kind, lag in self._lags.items() if lag > DEAD_AFTER_SECONDS}
        if deaf:
            return web.Response(
                status=503, text="".join(f"watch of {k} is {v:.0f} s behind\n" for k, v in deaf.items())
            )
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if not self.synced.is_set():
            return web.Response(status=503, text="the watches have not brought everything yet\n")
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})
