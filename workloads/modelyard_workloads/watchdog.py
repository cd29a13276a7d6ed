"""Notices that the ranks of a node stand still, and finds out where they are."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelyard_workloads import stacks
from modelyard_workloads.exits import ExitError
from modelyard_workloads.peers import PeerServer
from modelyard_workloads.processes import Rank

DEADLINE_VARIABLE = "MODELYARD_PROGRESS_DEADLINE_SECONDS"  # without movement for so long, stacks are taken
COMPILE_SECONDS = 1800.0  # the first pass of a compiled model may take this long without a sign of life


class Watchdog:
    """Says once for every standstill that there is one; movement ends it."""

    def __init__(self, deadline: float | None, bark: Callable[[], None]) -> None:
        """`deadline`: seconds without movement; None: never."""
        self._deadline = deadline
        self._bark = bark
        self._moved_at = time.monotonic()
        self._allowed_until = 0.0
        self.barked = False

    def moved(self, phase: str | None = None) -> None:
        """Something has happened; `phase` when it says in which phase the training is now."""
        self._moved_at = time.monotonic()
        self.barked = False
        if phase is not None:
            self._allowed_until = self._moved_at + COMPILE_SECONDS if phase == "compile" else 0.0

    def seconds_left(self) -> float | None:
        """Until it is to be checked; None when there is nothing to wait for."""
        if self._deadline is None or self.barked:
            return None
        return max(0.0, max(self._moved_at + self._deadline, self._allowed_until) - time.monotonic())

    def check(self) -> None:
        """Bark if it is time."""
        if self.seconds_left() == 0.0:
            self.barked = True
            self._bark()


@dataclass(kw_only=True)
class Investigator:
    """Takes the stacks of the ranks: into the pod's log, and on node 0 into the output, of all nodes."""

    say: Callable[[Rank, str], None]  # into the log of the pod and the rank's last words
    keep: Callable[[dict[int, str]], dict[str, str]] | None = None  # leaves them in the output, which node 0 has; where
    peers: PeerServer | None = None
    found: Callable[[dict[str, Any]], None] | None = None  # where they are, for the report

    def __post_init__(self) -> None:
        self._ranks: list[Rank] = []
        self._busy = threading.Lock()

    def watch(self, ranks: list[Rank]) -> None:
        """These are the ranks of this node."""
        self._ranks = ranks

    def local(self) -> dict[int, str]:
        """The stacks of this node's ranks, which are also said; takes seconds."""
        texts = stacks.dump(self._ranks)
        for rank in self._ranks:
            for line in stacks.digest(rank.rank, texts[rank.rank]) if rank.rank in texts else ():
                self.say(rank, line)
        return texts

    def start(self) -> None:
        """Do all of it, beside the supervision; at most once at a time."""
        if self._busy.acquire(blocking=False):
            threading.Thread(target=self._work, name="stacks", daemon=True).start()

    def _work(self) -> None:
        try:
            texts = self.local()
            if self.peers is not None:
                texts |= self.peers.collect()
            if self.keep is None or not texts:
                return
            told = {"digest": stacks.summary(texts), **self._kept(self.keep, texts)}
            if self.found is not None:
                self.found(told)
        finally:
            self._busy.release()

    @staticmethod
    def _kept(keep: Callable[[dict[int, str]], dict[str, str]], texts: dict[int, str]) -> dict[str, str]:
        """Where they are then; nothing where the volume refuses, which may be why nothing moves."""
        try:
            return keep(texts)
        except (OSError, ExitError) as error:
            sys.stderr.write(f"the stacks could not be saved: {error}\n")
            return {}
