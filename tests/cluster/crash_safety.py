"""Kills the operator after single writes of a life, and compares what comes of it with the undisturbed life."""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue

from cluster.fault_proxy import FaultProxy, Killing, Write
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.lives import CLAIM, Life, what_is_left, what_was_written
from cluster.objects import Played
from cluster.operator_process import OperatorProcess


@dataclass(frozen=True)
class Kill:
    """After which write, and whether its answer still reached the operator."""

    after: int
    delivered: bool

    def __str__(self) -> str:
        return f"killed after write {self.after}, {'answer delivered' if self.delivered else 'before its answer'}"


@dataclass(frozen=True)
class Outcome:
    left: str
    writes: tuple[Write, ...]
    killed: bool


class Lane:
    """A namespace with an operator and its proxy, in which lives are played one after the other."""

    _numbers = itertools.count(1)

    def __init__(self, laboratory: Laboratory) -> None:
        self._api = laboratory.api
        self.namespace = laboratory.make_namespace(f"lane{next(self._numbers)}")
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        claim: Object = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
        self._api.create(claim, self.namespace)
        self._operator: OperatorProcess
        self._proxy: FaultProxy
        self._operator, self._proxy = laboratory.start_operator([self.namespace])
        self._lives = itertools.count(1)

    def play(self, life: Life, kill: Kill | None, expected: str | None) -> Outcome:
        """One life; with `expected`, it is waited until that is left, and a failure shows the difference."""
        begin = len(self._proxy.writes)
        if kill is not None:
            self._proxy.faults.killing = Killing(kill.after, kill.delivered, self._restart)
        played = life.play(self._api, self.namespace, f"life-{life.name}-{next(self._lives)}")
        left = self._settled(played, life, expected)
        killed = kill is not None and self._proxy.faults.killing is None
        self._proxy.faults.killing = None
        self._remove(played, life)
        return Outcome(left, tuple(self._proxy.writes[begin:]), killed)

    def _restart(self) -> None:
        self._operator.kill()
        self._operator.start()

    def _settled(self, played: Played, life: Life, expected: str | None) -> str:
        """What is left when it no longer changes: one that is as expected, or the same for a second."""
        seen: list[str] = []

        def settled() -> bool:
            seen.append(what_is_left(played, life.kinds))
            return seen[-1] == expected if expected else len(seen) > 8 and len(set(seen[-8:])) == 1

        def difference() -> str:
            lines = difflib.unified_diff((expected or "").splitlines(), seen[-1].splitlines(), "undisturbed", "now")
            return "\n".join(lines)

        eventually("the same is left as of an undisturbed life", settled, 30, difference)
        return seen[-1]

    def _remove(self, played: Played, life: Life) -> None:
        """Make room; what of it goes by itself is the lifecycle tests' matter."""
        played.delete()
        for child in played.children(*life.kinds):
            self._api.delete(child["kind"], self.namespace, child["metadata"]["name"])
        played.wait_gone()


class CrashSafety:
    """One life, undisturbed first and then with each of the kills asked for."""

    def __init__(self, laboratory: Laboratory, life: Life, lanes: int) -> None:
        self._life = life
        with ThreadPoolExecutor(lanes) as pool:
            self._lanes = list(pool.map(lambda _: Lane(laboratory), range(lanes)))
        self._undisturbed = self._lanes[0].play(life, None, None)

    @property
    def writes(self) -> int:
        """How many writes the undisturbed life takes; others may take more or fewer.

        Changes of the pods that come one soon after the other end in one status or in several.
        """
        return len(self._undisturbed.writes)

    @property
    def _at_least(self) -> int:
        """How many writes no life can do without: those of its children, and the statuses that it waits for."""
        children = [w for w in self._undisturbed.writes if not w.path.endswith("/status")]
        return len(children) + self._life.statuses

    def kills(self, *, every: bool) -> list[Kill]:
        """Each write in both variants, or each once, in turns: an odd one before its answer, an even one after."""
        numbers = range(1, self.writes + 1)
        return [
            Kill(n, delivered) for n in numbers for delivered in (False, True) if every or delivered == (n % 2 == 0)
        ]

    def check(self, kills: Sequence[Kill]) -> list[str]:
        """Play a life for each kill, side by side in the lanes; returns what was wrong, in words."""
        free: Queue[Lane] = Queue()
        for lane in self._lanes:
            free.put(lane)

        def run(kill: Kill) -> str:
            lane = free.get()
            try:
                outcome = lane.play(self._life, kill, self._undisturbed.left)
                found = self._surprises(outcome)
                if not outcome.killed and kill.after <= self._at_least:
                    found.append(f"the life was over after {len(outcome.writes)} writes, before the kill")
                return "; ".join(found)
            except AssertionError as error:
                return str(error)
            finally:
                free.put(lane)

        with ThreadPoolExecutor(len(self._lanes)) as pool:
            return [f"{kill}: {wrong}" for kill, wrong in zip(kills, pool.map(run, kills), strict=True) if wrong]

    def _surprises(self, outcome: Outcome) -> list[str]:
        """Objects made or deleted more than once, and writes that nobody needed: what an object had been before."""
        done = [w for w in outcome.writes if w.code < 300]
        made = Counter((w.resource, w.created) for w in done if w.method == "POST")
        gone = Counter((w.resource, w.name) for w in done if w.method == "DELETE")
        been = Counter((w.path, what_was_written(w)) for w in done if w.method in ("PATCH", "PUT"))
        found = [f"made {n} times: {what}" for what, n in made.items() if n > 1]
        found += [f"deleted {n} times: {what}" for what, n in gone.items() if n > 1]
        found += [f"written {n} times: {what}" for what, n in been.items() if n > 1]
        return found
