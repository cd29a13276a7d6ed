"""Creates many objects at once and sees, by raw watches, when each of them runs and when the last of them is gone.

One loader for all contenders: the same connections, the same order of requests, the same clock (this process's).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from cluster.kubernetes_api import Access, Object, path_of

CONNECTIONS = 16
HEADERS = {"User-Agent": "modelyard-bench", "Content-Type": "application/json"}
LINE_BYTES = 4 << 20
POLL_SECONDS = 0.05
"""How often the end is looked for; the figures come from the times of the watch's events."""


@dataclass
class Times:
    """Seconds of one burst."""

    total: float
    """From the first request sent until the last object was seen running."""
    each: list[float]
    """Of every object: from its request until it was seen running."""

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.each, n=100)[percent - 1] if len(self.each) > 1 else self.each[0]


@dataclass
class Watched:
    """What a watch of one kind in one namespace has shown."""

    running: dict[str, float] = field(default_factory=dict)
    """Name -> when its status first said Running (perf_counter)."""
    present: set[str] = field(default_factory=set)
    changed: float = 0.0
    """When the newest event came."""


class Burst:
    """N objects of one kind in one namespace. An asynchronous context: its watches and connections end with it."""

    def __init__(self, access: Access, namespace: str, patience: float) -> None:
        self._access = access
        self._namespace = namespace
        self._patience = patience
        self._watches: dict[str, tuple[Watched, asyncio.Task[None]]] = {}

    async def __aenter__(self) -> Burst:
        self._load = self._session(CONNECTIONS)
        self._watching = self._session(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [task for _, task in self._watches.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._load.close()
        await self._watching.close()

    async def watch(self, kind: str) -> None:
        """Begin to watch a kind; must come before its objects."""
        watched = Watched()
        query = "?limit=1"
        async with self._watching.get(self._url(kind) + query) as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        self._watches[kind] = (watched, asyncio.create_task(self._follow(kind, watched, version)))

    async def create(self, kind: str, count: int, make: Callable[[int], Object]) -> Times:
        """Create `count` objects as fast as the connections carry, and wait until the status of each says Running."""
        bodies = {obj["metadata"]["name"]: json.dumps(obj) for obj in map(make, range(count))}
        sent: dict[str, float] = {}
        pending = iter(bodies.items())

        async def loader() -> None:
            for name, body in pending:
                sent[name] = time.perf_counter()
                async with self._load.post(self._url(kind), data=body, headers=HEADERS) as answer:
                    text = await answer.text()
                    if answer.status != 201:
                        raise RuntimeError(f"create {kind} {name}: {answer.status} {text[:500]}")

        began = time.perf_counter()
        await asyncio.gather(*(loader() for _ in range(CONNECTIONS)))
        watched = self._watches[kind][0]
        await self._until(kind, lambda: len(watched.running) >= count, lambda: f"{len(watched.running)} of {count} run")
        return Times(max(watched.running.values()) - began, [watched.running[name] - sent[name] for name in bodies])

    async def delete(self, kind: str) -> float:
        """Delete all objects of a kind by one request; seconds until all that is watched is gone."""
        began = time.perf_counter()
        options = json.dumps({"propagationPolicy": "Background"})
        async with self._load.delete(self._url(kind), data=options, headers=HEADERS) as answer:
            if answer.status != 200:
                raise RuntimeError(f"delete all {kind}: {answer.status} {(await answer.text())[:500]}")
        for each in self._watches:
            await self._until_gone(each)
        return max(watched.changed for watched, _ in self._watches.values()) - began

    async def _until_gone(self, kind: str) -> None:
        present = self._watches[kind][0].present
        await self._until(kind, lambda: not present, lambda: f"{len(present)} are left")

    async def _until(self, kind: str, reached: Callable[[], bool], told: Callable[[], str]) -> None:
        task = self._watches[kind][1]
        try:
            async with asyncio.timeout(self._patience):
                while not reached():
                    if task.done():
                        raise RuntimeError(f"watch of {kind} ended: {task.exception()}")
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError as error:
            raise RuntimeError(f"{kind}: {told()} after {self._patience:.0f} s") from error

    async def _follow(self, kind: str, watched: Watched, version: str) -> None:
        """Watch until cancelled, going on from the last event when the server ends a watch."""
        while True:
            query = f"?watch=1&timeoutSeconds=3600&resourceVersion={version}"
            async with self._watching.get(self._url(kind) + query) as answer:
                async for line in answer.content:
                    version = self._note(watched, json.loads(line))

    def _note(self, watched: Watched, event: dict[str, Any]) -> str:
        """Take one event in; returns its resourceVersion."""
        now = time.perf_counter()
        obj = event["object"]
        if event["type"] == "ERROR":
            raise RuntimeError(str(obj.get("message")))
        name = obj["metadata"]["name"]
        if event["type"] == "DELETED":
            watched.present.discard(name)
        else:
            watched.present.add(name)
            if (obj.get("status") or {}).get("phase") == "Running":
                watched.running.setdefault(name, now)
        watched.changed = now
        return str(obj["metadata"]["resourceVersion"])

    def _session(self, connections: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=self._access.tls, keepalive_timeout=120),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self._patience),
            read_bufsize=LINE_BYTES,
        )

    def _url(self, kind: str) -> str:
        return self._access.server + path_of(kind, self._namespace)
