"""Watches the ranks of one node until all have ended: passes their output on, keeps their events, ends them in time.

One thread, one selector, no polling: it wakes for output, for an event, for a signal or for a deadline.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from modelyard_workloads.exits import CHECKPOINTED, FAILURE, SUCCESS
from modelyard_workloads.processes import SAVE_SIGNAL, Failure, Lines, Rank, parse_event, read_available, reap
from modelyard_workloads.stacks import DUMP_SIGNAL
from modelyard_workloads.watchdog import Watchdog

PEER_GRACE_SECONDS = 5.0  # for the others, after one rank has failed
SECOND_SIGNAL_SECONDS = 5.0  # for all, after a second SIGTERM
# From the root cause away: an error of its own, a clean stop, a lost peer, ended by the launcher.
CAUSE, STOPPED, LOST, ENDED = range(4)
RESERVE_SECONDS = 10.0  # before the kubelet's SIGKILL, so that the reason can still be written


@dataclass(kw_only=True)
class Outcome:
    """How the node's ranks ended, and the last that is known of the training."""

    exit_code: int = SUCCESS
    failure: Failure | None = None
    log_tail: list[str] = field(default_factory=list)
    result: dict[str, Any] | None = None
    progress: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None
    tick: int = 0  # pieces of work that rank 0 has done; it stands still when nothing moves
    timing: dict[str, float] = field(default_factory=dict)  # seconds of this attempt by cause
    stacks: dict[str, Any] | None = None  # where the stacks of a standstill are


class Supervisor:
    """Runs the selector; `on_event` sees every event of every rank after it was noted in `outcome`."""

    def __init__(self) -> None:
        self.outcome = Outcome()
        self.watchdog: Watchdog | None = None
        self._prefix = False
        self._grace = 0.0
        self._on_event: Callable[[Outcome], None] | None = None
        self._stepped = False  # has any rank done a step?
        self._asked: deque[Callable[[], None]] = deque()
        self._save_wanted = False
        self._selector = selectors.DefaultSelector()
        self._ranks: list[Rank] = []
        self._signals = 0
        self._signalled_at = 0.0
        self._kill_at: float | None = None
        self._timed_out = False
        self._wake_read, self._wake_write = os.pipe()

    def configure(self, *, grace_seconds: float, prefix: bool, on_event: Callable[[Outcome], None] | None) -> None:
        """`grace_seconds`: between SIGTERM and the kubelet's SIGKILL. `prefix`: name the rank in front of its lines."""
        self._grace = max(1.0, grace_seconds - RESERVE_SECONDS)
        self._prefix = prefix
        self._on_event = on_event

    @property
    def stopping(self) -> bool:
        """Was SIGTERM received?"""
        return self._signals > 0

    def prepare(self) -> None:
        """Take over SIGTERM, SIGINT and SIGCHLD; before anything else, since process 1 of a pod loses signals that it
        has no handler for.
        """
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        # Until a rank has handlers of its own it inherits this: a request that comes early must not kill it.
        for number in (DUMP_SIGNAL, SAVE_SIGNAL):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    def run(self, ranks: list[Rank]) -> Outcome:
        """Wait until all ranks have ended; the outcome names the root cause."""
        self._ranks = ranks
        for rank in ranks:
            self._listen(rank.output, Lines(lambda line, rank=rank: self.say(rank, line)))  # type: ignore[misc]
            self._listen(rank.events, Lines(lambda line, rank=rank: self._event(rank, line)))  # type: ignore[misc]
        if self._signals:  # it came while the ranks were being started
            self._forward()
        while any(rank.exit_code is None for rank in ranks):
            for key, _ in self._selector.select(self._seconds_to_wait()):
                self._read(key.fd, key.data)
            self._collect()
            while self._asked:
                self._asked.popleft()()
            if self.watchdog is not None:
                self.watchdog.check()
                if self._signals and self._stands_still:  # they will not save any more
                    self._end_within(PEER_GRACE_SECONDS)
            if self._kill_at is not None and time.monotonic() >= self._kill_at:
                self._kill_all()
        for key in list(self._selector.get_map().values()):
            self._read(key.fd, key.data)
            if isinstance(key.data, Lines):
                key.data.finish()
        self._judge()
        return self.outcome

    def ask(self, action: Callable[[], None]) -> None:
        """Have something done by the supervising thread; may be called from any other."""
        self._asked.append(action)
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes it too
            os.write(self._wake_write, b"\0")

    def save(self) -> None:
        """Ask rank 0 for a checkpoint, as soon as it trains."""
        self._save_wanted = self.outcome.progress is None
        if not self._save_wanted:
            for rank in self._ranks:
                if rank.rank == 0:
                    rank.save()

    def say(self, rank: Rank, line: str) -> None:
        """A line about a rank: into the pod's log, and into the last words of the rank."""
        rank.tail.append(line)
        sys.stdout.write(f"[rank {rank.rank}] {line}\n" if self._prefix else f"{line}\n")
        sys.stdout.flush()

    def _seconds_to_wait(self) -> float | None:
        waits = [] if self._kill_at is None else [max(0.0, self._kill_at - time.monotonic())]
        if self.watchdog is not None and (left := self.watchdog.seconds_left()) is not None:
            waits.append(left)
        return min(waits, default=None)

    def _listen(self, descriptor: int, lines: Lines) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, lines)

    def _read(self, descriptor: int, lines: Lines | None) -> None:
        data, closed = read_available(descriptor)
        if lines is None:
            return  # the wake-up pipe: its bytes have no meaning
        lines.feed(data)
        if closed:
            lines.finish()
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)

    def _event(self, rank: Rank, line: str) -> None:
        event = parse_event(line)
        if event is None:
            return
        name = event.pop("event")
        timing = event.pop("timing", None)
        if timing is not None and rank.rank == 0:
            self.outcome.timing = timing
        if self.watchdog is not None:
            self.watchdog.moved(event.get("phase"))
        self.outcome.stacks = None  # of a standstill that is over
        if name == "failure":
            rank.reported(event)
        elif name == "started":
            self._stepped = True
        elif name == "tick" and rank.rank == 0:
            self.outcome.tick = event["count"]
        elif name == "progress":
            self.outcome.progress = event
            if self._save_wanted:
                self.save()
        elif name in ("checkpoint", "resumed"):
            self.outcome.checkpoint = event
        elif name == "result":
            self.outcome.result = event
        if self._on_event is not None:
            self._on_event(self.outcome)

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals == 1:
            self._signalled_at = time.monotonic()
        if self._ranks:
            self._forward()

    def _forward(self) -> None:
        """The first signal asks the ranks to save and stop; the second gives them only seconds to end."""
        if self._signals == 1:
            for rank in self._ranks:
                rank.terminate()
            self._end_within(self._grace)
        else:
            self._end_within(SECOND_SIGNAL_SECONDS)

    @property
    def _stands_still(self) -> bool:
        return self.watchdog is not None and self.watchdog.barked

    def _collect(self) -> None:
        codes = dict(reap())
        for rank in self._ranks:
            if rank.pid not in codes:
                continue
            # Its last words first: they may say why.
            for key in [k for k in self._selector.get_map().values() if k.fd in (rank.output, rank.events)]:
                self._read(key.fd, key.data)
            rank.ended(codes[rank.pid])
            if rank.exit_code != SUCCESS and rank.exit_code != CHECKPOINTED:
                self._end_within(PEER_GRACE_SECONDS)

    def _end_within(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        self._kill_at = at if self._kill_at is None else min(self._kill_at, at)

    def _kill_all(self) -> None:
        failed = any(r.exit_code not in (None, SUCCESS, CHECKPOINTED) for r in self._ranks)
        self._timed_out = bool(self._signals) and not failed
        for rank in self._ranks:
            if rank.exit_code is None and rank.failure is None:
                rank.failure = Failure(rank=rank.rank, at=time.monotonic(), reason="Ended")
            rank.kill()
        self._kill_at = None

    def _judge(self) -> None:
        failures = [rank for rank in self._ranks if rank.failure is not None]
        if not failures:
            return
        if self._signals and not self._stepped and any(_distance(r.failure) == STOPPED for r in failures):
            self._excuse(failures)
        # A rank that lost its peer, or that was ended because another had failed, is a consequence.
        first = min(failures, key=lambda r: (_distance(r.failure), r.failure.at if r.failure else 0.0))
        failure = first.failure
        assert failure is not None
        self.outcome.failure = failure
        self.outcome.log_tail = list(first.tail)
        if self._signals and not self._stepped and _distance(failure) in (STOPPED, LOST, ENDED):
            failure.reason, failure.message = (
                "Checkpointed",
                "stopped by SIGTERM before the first step; nothing was lost",
            )
            failure.exit_code, failure.signal = CHECKPOINTED, None
            self.outcome.exit_code = CHECKPOINTED
        elif self._timed_out and self._stands_still:
            failure.reason = "Stalled"
            failure.message = "the ranks stood still, and were killed when they were to stop"
            self.outcome.exit_code = 128 + signal.SIGTERM
        elif self._timed_out:
            failure.reason = "StopTimeout"
            failure.message = "the ranks did not save and stop within the grace period and were killed"
            self.outcome.exit_code = 128 + signal.SIGTERM
        elif failure.exit_code == CHECKPOINTED:
            failure.reason = "Checkpointed"
            failure.message = "stopped by SIGTERM; the checkpoint is complete"
            self.outcome.exit_code = CHECKPOINTED
        elif failure.signal is not None:
            self.outcome.exit_code = 128 + signal.Signals[failure.signal]
        else:
            self.outcome.exit_code = failure.exit_code or FAILURE

    def _excuse(self, failures: list[Rank]) -> None:
        """Before the first step SIGTERM ends some ranks at once; what the others then say is about having lost them,
        in whatever words the library that was meeting them has.
        """
        for rank in failures:
            failure = rank.failure
            if failure is not None and failure.exit_code == FAILURE and failure.at >= self._signalled_at:
                failure.reason = failure.reason or "PeerLost"


def _distance(failure: Failure | None) -> int:
    """How far a failure is from the root cause."""
    if failure is None or failure.reason == "Ended":
        return ENDED
    if failure.reason == "PeerLost":
        return LOST
    return STOPPED if failure.exit_code == CHECKPOINTED or failure.signal == "SIGTERM" else CAUSE
