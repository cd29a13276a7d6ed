"""The frame of all fault tests: a promise, played for many rounds, and the table of what was broken.

A promise is a function that plays one round on a cluster and returns what was not as promised, in words. To add one,
write such a function and name it in `PROMISES` of every_round.py; a test plays one round of it, `make faults-training`
plays many. All chance comes from the round's own generator, so a round can be played again by its seed.
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from cluster.kubernetes_api import KubernetesApi

SEED = 20


@dataclass(frozen=True)
class Bench:
    """Where rounds are played: a namespace with an operator of its own."""

    api: KubernetesApi
    namespace: str


@dataclass(frozen=True)
class Promise:
    """`play(bench, name, chance)` plays one round with a training of that name; returns the violations, in words."""

    name: str
    play: Callable[[Bench, str, random.Random], list[str]]
    lanes: int = 2
    """How many rounds may be played at once: one where time is measured."""


@dataclass
class Tally:
    """What came of the rounds of one promise."""

    promise: Promise
    rounds: int = 0
    violations: list[str] = field(default_factory=list)


def play_round(promise: Promise, bench: Bench, number: int, seed: int = SEED) -> list[str]:
    """One round; an error in it counts as a violation, with its place."""
    chance = random.Random(f"{seed}/{promise.name}/{number}")
    name = f"{promise.name.lower().replace(' ', '-')}-{number}"
    try:
        broken = promise.play(bench, name, chance)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        broken = [f"{type(error).__name__} in {place.name}: {error}"]
    return [f"round {number}, seed {seed}: {violation}" for violation in broken]


def play_rounds(promise: Promise, bench: Bench, rounds: int, seed: int = SEED) -> Tally:
    """Many rounds, as many at once as the promise bears."""
    tally = Tally(promise, rounds)
    with ThreadPoolExecutor(promise.lanes) as pool:
        for broken in pool.map(lambda number: play_round(promise, bench, number, seed), range(1, rounds + 1)):
            tally.violations += broken
    return tally


def table(tallies: Sequence[Tally]) -> str:
    """Promise, rounds, violations; and below it each violation."""
    width = max(len(tally.promise.name) for tally in tallies)
    rows = [f"{t.promise.name:{width}}  {t.rounds:6}  {len(t.violations):10}" for t in tallies]
    broken = [f"{t.promise.name}: {violation}" for t in tallies for violation in t.violations]
    return "\n".join([f"{'promise':{width}}  rounds  violations", *rows, *broken])
