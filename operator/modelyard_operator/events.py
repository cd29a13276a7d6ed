"""Records Kubernetes Events: one object per (parent, reason, message), counted up, rate limited, never in the way.

kopf's own posting makes an object per Event and blocks handlers; client-go's recorder aggregates, and so does this.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import TypeVar

from modelyard_operator import metrics
from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.objects import content_hash, format_time
from modelyard_operator.plan import Event, Object

log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")

BURST = 25
REFILL_PER_SECOND = 1 / 30
"""Per parent: 25 Events at once, then two a minute (the defaults of client-go's spam filter are 25 and 1 in 300 s)."""
MAX_PENDING = 1000
MAX_REMEMBERED = 4096
MESSAGE_LIMIT = 1024


@dataclass
class _Bucket:
    tokens: float
    filled: float


class EventRecorder:
    """`record` never waits; `run` writes in the background."""

    def __init__(self, cluster: Cluster, component: str = "modelyard") -> None:
        self._cluster = cluster
        self._component = component
        self._pending: asyncio.Queue[tuple[Object, Event]] = asyncio.Queue(MAX_PENDING)
        self._counts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def record(self, parent: Object, event: Event) -> None:
        if not self._allowed(parent["metadata"]["uid"]):
            metrics.EVENTS_DROPPED.inc()
            return
        try:
            self._pending.put_nowait((parent, event))
        except asyncio.QueueFull:
            metrics.EVENTS_DROPPED.inc()

    async def run(self) -> None:
        while True:
            parent, event = await self._pending.get()
            try:
                await self._write(parent, event)
            except ApiError as error:
                # An Event is a courtesy: the status holds the same facts.
                metrics.EVENTS_DROPPED.inc()
                log.info("event %s not recorded: %s", event.reason, error)

    async def _write(self, parent: Object, event: Event) -> None:
        now = format_time(datetime.now(UTC))
        body = self._render(parent, event, now)
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        place = (parent["metadata"]["uid"], name)
        count = self._counts.get(place, 0)
        if not count:
            count = await self._create(body)
        else:
            try:
                await self._cluster.merge("Event", namespace, name, {"count": count + 1, "lastTimestamp": now})
                count += 1
            except ApiError as error:
                if not error.not_found:  # the API server drops Events after an hour
                    raise
                count = await self._create(body)
        _remember(self._counts, place, count)

    async def _create(self, body: Object) -> int:
        """How often it is counted now: on from what the process before this one recorded."""
        try:
            await self._cluster.create(body)
            return 1
        except ApiError as error:
            if not error.already_exists:
                raise
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        found = await self._cluster.list("Event", namespace, fields=f"metadata.name={name}")
        count = 1 + max((int(event.get("count") or 1) for event in found), default=0)
        await self._cluster.merge("Event", namespace, name, {"count": count, "lastTimestamp": body["lastTimestamp"]})
        return count

    def _render(self, parent: Object, event: Event, now: str) -> Object:
        meta = parent["metadata"]
        message = event.message if len(event.message) <= MESSAGE_LIMIT else event.message[: MESSAGE_LIMIT - 1] + "…"
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{meta['name']}.{content_hash([meta['uid'], event.reason, message])}",
                "namespace": meta["namespace"],
            },
            "involvedObject": {
                "apiVersion": parent["apiVersion"],
                "kind": parent["kind"],
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
            },
            "type": event.type,
            "reason": event.reason,
            "message": message,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }

    def _allowed(self, uid: str, clock: Callable[[], float] = monotonic) -> bool:
        now = clock()
        bucket = self._buckets.get(uid) or _Bucket(BURST, now)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.filled) * REFILL_PER_SECOND)
        bucket.filled = now
        allowed = bucket.tokens >= 1
        bucket.tokens -= 1 if allowed else 0
        _remember(self._buckets, uid, bucket)
        return allowed


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
