"""A keyed work queue: dedupe, one worker per key at a time, back-off with jitter, timers. The idea is client-go's.

A key added while it is being worked on is worked on again afterwards; a key added twice is worked on once.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import deque
from collections.abc import Hashable
from time import monotonic
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_LAST_SECONDS = 300.0


def backoff(failures: int) -> float:
    """Seconds until the next try after so many failures: 1 doubled to 300, each with up to 50 % jitter."""
    delay = min(BACKOFF_LAST_SECONDS, BACKOFF_FIRST_SECONDS * 2.0 ** min(failures - 1, 16))
    return delay * random.uniform(0.5, 1.0)


class WorkQueue(Generic[K]):
    """Used from one event loop. `get` hands a key out, `done` must follow; `retry` schedules it with back-off."""

    def __init__(self) -> None:
        self._ready: deque[K] = deque()
        self._waiting: dict[K, float] = {}  # key -> when it was added, for the queue's latency
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._due: dict[K, float] = {}
        self._timers: list[tuple[float, int, K]] = []
        self._order = itertools.count()
        self._wakeup: asyncio.TimerHandle | None = None
        self._getters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Make a key ready for work now, unless it is already."""
        if key in self._waiting:
            return
        if key in self._working:
            self._again.add(key)
            return
        self._waiting[key] = monotonic()
        self._ready.append(key)
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                break

    def add_after(self, key: K, seconds: float) -> None:
        """Make a key ready in some seconds; of several timers for one key the earliest counts."""
        due = monotonic() + max(0.0, seconds)
        if key in self._due and self._due[key] <= due:
            return
        self._due[key] = due
        heapq.heappush(self._timers, (due, next(self._order), key))
        self._arm()

    async def get(self) -> K:
        """The next key, oldest first; waits for one. The key's pending timer is dropped: work computes the next."""
        while not self._ready:
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # A key may have been announced to this waiter only: pass the news on.
                if getter.done() and not getter.cancelled() and self._ready and self._getters:
                    self._getters.popleft().set_result(None)
                raise
        key = self._ready.popleft()
        del self._waiting[key]
        self._due.pop(key, None)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def retry(self, key: K, at_least: float = 0.0) -> float:
        """Schedule a key whose work failed, with back-off. Returns the delay."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = max(at_least, backoff(failures))
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key's work succeeded: its back-off starts anew."""
        self._failures.pop(key, None)

    def _arm(self) -> None:
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        while self._timers and self._due.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)  # superseded by an earlier timer or by work done since
        if self._timers:
            delay = max(0.0, self._timers[0][0] - monotonic())
            self._wakeup = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._wakeup = None
        now = monotonic()
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._arm()
