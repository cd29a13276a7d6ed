"""Kinds of other people's APIs that a cluster may or may not have, listed every few seconds instead of watched.

A watch of a kind that is not there fails, and its definition may come and go while the operator runs. Without looking,
a route that somebody changed would stay so, and one that is not wanted any more since a restart would stay for good.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.objects import MANAGED_SELECTOR
from modelyard_operator.plan import Key, Object
from modelyard_operator.store import Store, WatchAudit, version_of
from modelyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

OPTIONAL_KINDS = ("HTTPRoute", "ScaledObject")
_FORBIDDEN, _NOT_FOUND = 403, 404


class OptionalKinds:
    """Keeps the store up to date about them."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        queue: WorkQueue[Key],
        namespaces: Sequence[str | None],
        audit: WatchAudit,
    ) -> None:
        """`namespaces`: None for all of them."""
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._namespaces = namespaces
        self._audit = audit
        self._absent: set[str] = set()
        self._forbidden: set[str] = set()

    async def look(self) -> None:
        """Take in what has changed. Raises ApiError where the server cannot be asked at all."""
        for kind in OPTIONAL_KINDS:
            found = await self._list(kind)
            if found is None:
                self._absent.add(kind)
            elif kind in self._absent:
                self._absent.remove(kind)
                self._tell(self._store.refusals.release(kind))  # they would be tried again, but perhaps in minutes
            listing = found or []
            for item in listing:
                meta = item["metadata"]
                known = self._store.get(kind, meta["namespace"], meta["name"])
                if known is None or version_of(known) < version_of(item):
                    self._tell(self._store.put(kind, item))
            _, missed = self._audit.compare(kind, listing, datetime.now(UTC))
            self._tell(missed)

    async def _list(self, kind: str) -> list[Object] | None:
        """None where the kind is not there, or is not ours to see."""
        try:
            return [
                item
                for namespace in self._namespaces
                for item in await self._cluster.list(kind, namespace, labels=MANAGED_SELECTOR)
            ]
        except ApiError as error:
            if error.code not in (_FORBIDDEN, _NOT_FOUND):
                raise
            if error.code == _FORBIDDEN and kind not in self._forbidden:
                self._forbidden.add(kind)
                log.warning("changes of %s are not seen: %s", kind, error)
            return None

    def _tell(self, keys: set[Key]) -> None:
        for key in keys:
            self._queue.add(key)
