"""The processes of one node: started, listened to, and reaped by the launcher, which is process 1 of the pod."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import IO, Any

from modelyard_workloads.metrics import EVENTS_VARIABLE

STACKS_VARIABLE = "MODELYARD_STACKS_FD"  # where a rank's faulthandler writes
SAVE_SIGNAL = signal.SIGUSR2  # asks rank 0 for a checkpoint
TAIL_LINES = 20
_LONGEST_LINE = 1 << 16


@dataclass(kw_only=True)
class Failure:
    """How a rank ended when it did not succeed."""

    rank: int
    at: float  # monotonic time of the first sign
    exit_code: int | None = None
    signal: str | None = None
    exception_type: str | None = None
    message: str = ""
    reason: str = ""


class Lines:
    """Cuts a byte stream into lines; a line that never ends is cut at 64 KiB."""

    def __init__(self, sink: Callable[[str], None]) -> None:
        self._sink = sink
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._sink(line.decode(errors="replace").rstrip("\r"))

    def finish(self) -> None:
        """The stream has ended; what is left is a line too."""
        if self._rest:
            self._sink(self._rest.decode(errors="replace"))
            self._rest = b""


@dataclass(kw_only=True)
class Rank:
    """One rank's process, its output and its events."""

    rank: int
    pid: int
    output: int  # file descriptor of stdout and stderr
    events: int  # file descriptor of the JSON lines of metrics.Reporter
    stacks: IO[bytes]  # what its faulthandler writes
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    exit_code: int | None = None  # negative: a signal; None: still running
    failure: Failure | None = None

    def kill(self) -> None:
        """End the rank and everything it started, without asking."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the rank to save and stop."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def save(self) -> None:
        """Ask the rank for a checkpoint, after which it goes on."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, SAVE_SIGNAL)

    def ended(self, code: int) -> None:
        """Note the exit status (negative for a signal) and complete the failure that the rank may have reported
        itself.
        """
        self.exit_code = code
        if code == 0:
            return
        failure = self.failure or Failure(rank=self.rank, at=time.monotonic())
        if code < 0:
            failure.signal = signal.Signals(-code).name
            failure.message = failure.message or f"killed by {failure.signal}"
        else:
            failure.exit_code = code
            failure.message = failure.message or f"exited with code {code}"
        self.failure = failure

    def reported(self, event: Mapping[str, Any]) -> None:
        """The rank says itself why it is about to fail."""
        if self.failure is None:
            self.failure = Failure(
                rank=self.rank,
                at=time.monotonic(),
                exception_type=event.get("exceptionType"),
                message=str(event.get("message", "")),
                reason=str(event.get("reason", "")),
            )


def start(rank: int, environment: Mapping[str, str], command: list[str] | None = None) -> Rank:
    """Start one rank in a session of its own (so that all it starts can be ended with it)."""
    stacks = TemporaryFile("a+b", buffering=0)  # noqa: SIM115 - as long as the rank
    output_read, output_write = os.pipe()
    events_read, events_write = os.pipe()
    try:
        process = subprocess.Popen(
            command or [sys.executable, "-m", "modelyard_workloads.train"],
            stdin=subprocess.DEVNULL,
            stdout=output_write,
            stderr=output_write,
            env={
                **environment,
                "PYTHONUNBUFFERED": "1",
                EVENTS_VARIABLE: str(events_write),
                STACKS_VARIABLE: str(stacks.fileno()),
            },
            pass_fds=[events_write, stacks.fileno()],
            start_new_session=True,
        )
    finally:
        os.close(output_write)
        os.close(events_write)
    # The launcher reaps with waitpid(-1): tell Popen that there is nothing left to wait for.
    process.returncode = 0
    for descriptor in (output_read, events_read):
        os.set_blocking(descriptor, False)
    return Rank(rank=rank, pid=process.pid, output=output_read, events=events_read, stacks=stacks)


def read_available(descriptor: int) -> tuple[bytes, bool]:
    """What can be read now, and whether the other end is closed."""
    data = b""
    while True:
        try:
            piece = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return data, False
        if not piece:
            return data, True
        data += piece


def reap() -> list[tuple[int, int]]:
    """All children that have ended, orphans that process 1 inherited included: (pid, exit code, negative for a
    signal).
    """
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


def parse_event(line: str) -> dict[str, Any] | None:
    """An event of a rank, or None when the line is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
