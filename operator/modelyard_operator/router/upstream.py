"""Connections to the revisions, and the room in which requests wait while there is no server."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic

from modelyard_operator.router.config import Backend, RouterConfig
from modelyard_operator.router.counts import Counts
from modelyard_operator.router.wire import MAX_HEAD

log = logging.getLogger(__name__)

CONNECT_SECONDS = 3.0
IDLE_SECONDS = 30.0
"""Servers close idle connections after 65 s; a connection that was idle for this long is not used again."""
OLD_SECONDS = 60.0
"""A connection stays with one pod: after this time a new one is made, so that new pods get their part."""
_PROBE_FIRST, _PROBE_LAST = 0.02, 0.25
_LOOK_SECONDS = 0.5


class Full(Exception):
    """As many requests wait as may."""


class TooLong(Exception):
    """No server came up within the time that a request may wait."""


class ClientGone(Exception):
    """The client closed its connection."""


class Connection:
    """A connection to a pod of one revision."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.born = self.used = monotonic()
        self.reused = False

    def close(self) -> None:
        self.writer.transport.abort()

    @property
    def usable(self) -> bool:
        now = monotonic()
        fresh = now - self.used < IDLE_SECONDS and now - self.born < OLD_SECONDS
        return fresh and not self.reader.at_eof() and not self.writer.is_closing()


class Pool:
    """The connections to one revision that nobody uses now, the newest first."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._idle: deque[Connection] = deque()

    async def take(self) -> Connection:
        """A connection. Raises OSError or TimeoutError where no pod takes one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.reused = True
                return connection
            connection.close()
        return await self.connect()

    async def connect(self) -> Connection:
        async with asyncio.timeout(CONNECT_SECONDS):
            opened = await asyncio.open_connection(self.backend.host, self.backend.port, limit=MAX_HEAD)
        return Connection(*opened)

    def give_back(self, connection: Connection) -> None:
        connection.used = monotonic()
        self._idle.append(connection)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Upstream:
    """All revisions. A request gets a connection, waits for one, or is refused."""

    def __init__(self, config: RouterConfig, counts: Counts) -> None:
        self._max_held = config.max_held
        self._hold_seconds = config.hold_seconds
        self._counts = counts
        named = [*config.backends, *([config.mirror] if config.mirror is not None else [])]
        self.pools = {backend.revision: Pool(backend) for backend in named}
        self._there = asyncio.Event()
        self._prober: asyncio.Task[None] | None = None

    async def take(
        self, order: Sequence[Backend], gone: Callable[[], bool], *, fresh: bool = False
    ) -> tuple[Backend, Connection]:
        """A connection to the first of these revisions that takes one. Raises Full, TooLong and ClientGone.

        `fresh` asks for a new one: others that were idle may lead to the same pod that has just gone.

        A revision that refuses connections, while another takes them, is charged with an error.
        """
        started = monotonic()
        missed: list[Backend] = []
        for backend in order:
            pool = self.pools[backend.revision]
            try:
                connection = await (pool.connect() if fresh else pool.take())
            except TimeoutError:
                return await self._wait([backend], gone)  # it is busy: that moves no request to another revision
            except OSError:
                missed.append(backend)
                continue
            for other in missed:
                self._counts.answered(other.revision, 0, monotonic() - started)
            return backend, connection
        return await self._wait(order, gone)

    async def _wait(self, order: Sequence[Backend], gone: Callable[[], bool]) -> tuple[Backend, Connection]:
        if self._counts.held >= self._max_held:
            raise Full
        self._counts.held += 1
        due = monotonic() + self._hold_seconds
        try:
            while monotonic() < due:
                self._probe(order)
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._there.wait()
                if gone():
                    raise ClientGone
                if not self._there.is_set():
                    continue
                for backend in order:
                    with suppress(OSError, TimeoutError):
                        return backend, await self.pools[backend.revision].take()
                self._there.clear()
            raise TooLong
        finally:
            self._counts.held -= 1

    def _probe(self, order: Sequence[Backend]) -> None:
        """One task for all that wait tries to connect, and wakes them when it could."""
        if self._prober is None or self._prober.done():
            self._there.clear()
            self._prober = asyncio.create_task(self._knock([self.pools[b.revision] for b in order]))

    async def _knock(self, pools: Sequence[Pool]) -> None:
        pause = _PROBE_FIRST
        while self._counts.held:
            for pool in pools:
                with suppress(OSError, TimeoutError):
                    pool.give_back(await pool.connect())
                    self._there.set()
                    return
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _PROBE_LAST)

    def close(self) -> None:
        for pool in self.pools.values():
            pool.close()
