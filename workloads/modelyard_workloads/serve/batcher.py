"""Requests into batches: idle-immediate dispatch, one inference thread, nothing lost and nothing computed in vain.

The rule: when the inference thread is free, what waits goes at once; while it computes, requests collect (oldest
first, at most `max_rows` rows of one key). So a lone request never waits for company, and under load the batches grow
by themselves. What is waited for deliberately, at most `max_latency` seconds: requests whose bodies are still arriving
(`announce`), and, among several clients, a few turns of the event loop in which no other request comes.

All state belongs to the event loop's thread; the inference thread gets a finished batch and hands results back.
A request that is cancelled, or whose deadline passes, leaves the queue before it costs a computation. When a batch
fails, its requests run one by one, and only those that fail alone get the failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import numpy as np

from modelyard_workloads.serve.errors import DeadlineExceeded, InferenceFailed, InvalidInput, Saturated, without_text
from modelyard_workloads.serve.tensors import Array

log = logging.getLogger(__name__)

_TIMER_SLACK = 0.001  # seconds that an event loop's timer may be early
_SLOWER = 1.1
_CALM_TURNS = 8  # of the event loop, some microseconds each, in which no request came

Arrays = Mapping[str, Array]
Predict = Callable[[Arrays], dict[str, Array]]


class BatchObserver(Protocol):
    """Told about everything that was computed, on the event loop's thread."""

    def batch(self, requests: int, rows: int, waits: list[float], seconds: float) -> None:
        """`waits`: seconds each request was queued; `seconds`: the computation."""

    def step(self, sequences: int, waits: list[float], seconds: float) -> None:
        """A language model computed the next tokens of so many sequences; `waits`: seconds that those were queued which
        have their first token now.
        """


@dataclass(frozen=True, kw_only=True)
class BatchLimits:
    """`max_rows` in one computation, `max_requests` in one computation, `max_queue` requests waiting, and `max_wait`
    seconds until the model is free for one more.
    """

    max_rows: int
    max_latency: float
    max_queue: int
    max_requests: int
    max_wait: float


class Dispatch(Protocol):
    """How the data plane has arrays computed; see `Batcher`."""

    @property
    def depth(self) -> int:
        """Requests waiting."""

    def announce(self) -> Callable[[], None]:
        """A request is on its way."""

    async def submit(self, arrays: Arrays, key: Hashable, deadline: float) -> dict[str, Array]:
        """The answer."""


class InferenceThread(threading.Thread):
    """Runs jobs one after the other; a daemon, so that a hanging computation cannot keep the process alive."""

    def __init__(self) -> None:
        super().__init__(name="inference", daemon=True)
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, job: Callable[[], None]) -> None:
        """Queue a job; it must not raise."""
        self._jobs.put(job)

    def run(self) -> None:
        """The thread's life."""
        while True:
            self._jobs.get()()


class _Item:
    """One request: its arrays, and the future its caller awaits."""

    __slots__ = ("arrays", "deadline", "enqueued", "future", "key", "rows")

    def __init__(
        self, key: Hashable, rows: int, arrays: Arrays, deadline: float, future: asyncio.Future[dict[str, Array]]
    ) -> None:
        self.key = key
        self.rows = rows
        self.arrays = arrays
        self.deadline = deadline
        self.future = future
        self.enqueued = monotonic()


_Outcome = dict[str, Array] | Exception


class Batcher:
    """Batches calls of `predict`, which takes and gives arrays whose first dimension is the row.

    Construct and use on the event loop's thread. `predict` runs on `thread` only.
    """

    def __init__(self, predict: Predict, limits: BatchLimits, thread: InferenceThread, observer: BatchObserver) -> None:
        self._predict = predict
        self._limits = limits
        self._thread = thread
        self._observer = observer
        self._loop = asyncio.get_running_loop()
        # By key, oldest first; a dict as an ordered set, so that leaving the queue is O(1) too.
        self._waiting: dict[Hashable, dict[_Item, None]] = {}
        self._depth = 0
        self._rows_waiting = 0
        self._row_seconds = 0.0  # of the latest computations; 0 before the first
        # All that are waiting or being computed, and one timer for the earliest deadline: one for each costs more.
        self._live: dict[_Item, None] = {}
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_at = 0.0
        self._busy = False
        self._company = False  # whether the latest batch was of several, or others came while it was computed
        self._seen = 0  # requests that waited at the last look, and looks since then in which none came
        self._calm = 0
        self._kick: asyncio.Handle | None = None
        self._arriving: dict[object, float] = {}

    @property
    def depth(self) -> int:
        """Requests waiting, without those being computed."""
        return self._depth

    def announce(self) -> Callable[[], None]:
        """Say that a request is on its way; call what is returned once it is queued or will not come."""
        token = object()
        self._arriving[token] = monotonic()

        def arrived() -> None:
            if self._arriving.pop(token, None) is not None:
                self._schedule()

        return arrived

    async def submit(self, arrays: Arrays, key: Hashable, deadline: float) -> dict[str, Array]:
        """The answer to `arrays` (already checked), computed together with others of the same `key`.

        `deadline` is a time of `time.monotonic`. More rows than a batch holds are computed in several batches. Raises
        Saturated, DeadlineExceeded, InferenceFailed, and InvalidInput where the model itself refuses the values.
        """
        rows = len(next(iter(arrays.values())))
        most = self._limits.max_rows
        if self._depth >= self._limits.max_queue:
            raise Saturated("the model's queue is full; try again later")
        if self._rows_waiting * self._row_seconds > self._limits.max_wait:
            raise Saturated("the model's queue is too long to be answered soon; try again later")
        if rows <= most:
            return await self._submit_one(arrays, rows, key, deadline)
        starts = range(0, rows, most)
        pieces = [{name: array[start : start + most] for name, array in arrays.items()} for start in starts]
        parts: list[dict[str, Array]] = []
        # One after the other: other clients' requests get their turn in between. Only the first needs room in the
        # queue: a request that was admitted is not refused halfway.
        for piece in pieces:
            count = len(next(iter(piece.values())))
            parts.append(await self._submit_one(piece, count, key, deadline))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    async def _submit_one(self, arrays: Arrays, rows: int, key: Hashable, deadline: float) -> dict[str, Array]:
        future: asyncio.Future[dict[str, Array]] = self._loop.create_future()
        item = _Item(key, rows, arrays, deadline, future)
        self._waiting.setdefault(key, {})[item] = None
        self._depth += 1
        self._rows_waiting += rows
        self._live[item] = None
        if self._expiry is None or deadline < self._expires_at:
            self._expire_at(deadline, item.enqueued)
        self._schedule()
        try:
            return await future
        finally:
            del self._live[item]
            self._leave(item)  # cancelled or expired while waiting

    def _expire_at(self, deadline: float, now: float) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires_at = deadline
        self._expiry = self._loop.call_later(max(deadline - now, 0), self._expire)

    def _expire(self) -> None:
        """Drop what is past its deadline, and come again at the next one."""
        self._expiry = None
        now = monotonic()
        due = now + _TIMER_SLACK
        for item in self._live:
            if item.deadline <= due and not item.future.done():
                message = "no answer within the request's time; the request was dropped"
                item.future.set_exception(DeadlineExceeded(message))
        if ahead := [item.deadline for item in self._live if item.deadline > due]:
            self._expire_at(min(ahead), now)

    def _leave(self, item: _Item) -> None:
        lane = self._waiting.get(item.key)
        if lane is not None and item in lane:
            del lane[item]
            self._depth -= 1
            self._rows_waiting -= item.rows
            if not lane:
                del self._waiting[item.key]

    def _schedule(self, delay: float = 0) -> None:
        """Dispatch at the end of this turn of the loop, so that requests of one turn share a batch."""
        if self._busy or not self._depth:
            return
        if self._kick is not None:
            self._kick.cancel()
        self._kick = self._loop.call_later(delay, self._dispatch) if delay else self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._kick = None
        if self._busy or not self._depth:
            return
        oldest = min((next(iter(lane)) for lane in self._waiting.values()), key=lambda item: item.enqueued)
        if self._others_come(oldest):
            self._kick = self._loop.call_soon(self._dispatch)
            return
        lane = self._waiting[oldest.key]
        wait = self._wait_for_arrivals(oldest, sum(item.rows for item in lane))
        if wait > 0:
            self._schedule(wait)
            return
        batch: list[_Item] = []
        rows = 0
        for item in list(lane):
            if batch and (rows + item.rows > self._limits.max_rows or len(batch) >= self._limits.max_requests):
                break
            self._leave(item)
            if not item.future.done():  # expired in this turn of the loop
                batch.append(item)
                rows += item.rows
        if not batch:
            self._schedule()
            return
        self._busy = True
        self._thread.submit(lambda: self._run(batch))

    def _others_come(self, oldest: _Item) -> bool:
        """Whether to look again after a turn of the loop, where the latest computation left others to come.

        Clients that were answered together do not ask again within one turn, over gRPC least of all, whose library
        hands calls over one by one; and a batch costs a change of threads, which is more than a small model does.
        """
        if self._depth > self._seen:
            self._seen, self._calm = self._depth, 0
        else:
            self._calm += 1
        full = self._rows_waiting >= self._limits.max_rows or self._depth >= self._limits.max_requests
        late = monotonic() - oldest.enqueued >= self._limits.max_latency
        if self._company and not full and not late and self._calm < _CALM_TURNS:
            return True
        self._seen = self._calm = 0
        return False

    def _wait_for_arrivals(self, oldest: _Item, rows: int) -> float:
        """Seconds the oldest request may still wait for others that have begun to arrive."""
        latency = self._limits.max_latency
        if not self._arriving or not latency or rows >= self._limits.max_rows:
            return 0.0
        now = monotonic()
        newest = next(reversed(self._arriving.values()))
        # A body that arrives slower than `max_latency` is not worth waiting for: a slow client must not slow others.
        return min(oldest.enqueued, newest) + latency - now

    def _run(self, batch: list[_Item]) -> None:
        """On the inference thread."""
        started = monotonic()
        outcomes = self._compute(batch)
        seconds = monotonic() - started
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._finish, batch, outcomes, started, seconds)

    def _compute(self, batch: list[_Item]) -> list[_Outcome]:
        try:
            names = batch[0].arrays.keys()
            # Copies even a single request: the arrays are views of a read-only and perhaps unaligned body.
            together = {name: np.concatenate([item.arrays[name] for item in batch]) for name in names}
            rows = sum(item.rows for item in batch)
            answers = self._predict(together)
            if any(len(array) != rows for array in answers.values()):
                raise InferenceFailed("the model gave another number of rows than it got")
        except Exception as error:
            if len(batch) == 1:
                return [_as_answer(error)]
            log.warning("a batch of %d requests failed (%s); running them one by one", len(batch), type(error).__name__)
            return [outcome for item in batch for outcome in self._retry(item)]
        outcomes: list[_Outcome] = []
        start = 0
        for item in batch:
            outcomes.append({name: array[start : start + item.rows] for name, array in answers.items()})
            start += item.rows
        return outcomes

    def _retry(self, item: _Item) -> list[_Outcome]:
        if item.future.done():  # nobody waits for it any more
            return [DeadlineExceeded("dropped")]
        return self._compute([item])

    def _finish(self, batch: list[_Item], outcomes: list[_Outcome], started: float, seconds: float) -> None:
        """Back on the event loop."""
        self._busy = False
        self._company = len(batch) + self._depth > 1
        for item, outcome in zip(batch, outcomes, strict=True):
            if item.future.done():
                continue
            if isinstance(outcome, Exception):
                item.future.set_exception(outcome)
            else:
                item.future.set_result(outcome)
        waits = [started - item.enqueued for item in batch]
        rows = sum(item.rows for item in batch)
        # A row costs more alone than among many, and a queue is computed in large batches: what was seen to be possible
        # is believed at once, that it takes longer only in the course of some computations.
        seen, known = seconds / rows, self._row_seconds
        self._row_seconds = min(seen, known * _SLOWER) if known else seen
        self._observer.batch(len(batch), rows, waits, seconds)
        self._schedule()


def _as_answer(error: Exception) -> Exception:
    if isinstance(error, InvalidInput):
        return error
    log.error("inference failed: %s", type(error).__name__, exc_info=without_text(error))
    return InferenceFailed("the model failed on this request")
