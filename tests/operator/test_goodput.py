"""Where the time of a training goes: scripted lives, second by second, against an account kept by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from modelyard_operator.objects import parse_time
from simulation import START, World
from trainings_world import world

REPORT_EVERY = 5
STARTUP, SAVE, EVERY = 5, 3, 50
"""Seconds for the processes to start and for one checkpoint; steps between checkpoints. A step takes a second."""


@dataclass
class Script:
    """A training of `total` steps. Faults: the second at which a rank dies, and how long until the cluster sees it."""

    total: int
    queued: int = 20
    placing: int = 8
    faults: dict[int, int] = field(default_factory=dict)
    hangs: tuple[int, ...] = ()
    """The seconds at which the training stops moving."""
    pauses: dict[int, int] = field(default_factory=dict)
    """The second at which the user suspends it, and for how long."""
    sees: bool = False
    """Whether the launcher itself knows which steps it does again."""


class Life:
    """Plays a script second by second. `truth` is what really happened to each second."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.w: World = world(
            runPolicy={"progressDeadlineSeconds": 60}, failurePolicy={"backoffSeconds": 0, "maxRestarts": 9}
        )
        self.truth: Counter[str] = Counter()
        self.step = self.saved = self.best = 0
        self.attempt = 0
        self.left = script.queued
        self.stage = "queued"
        self.told: Counter[str] = Counter()

    @property
    def second(self) -> int:
        return int((self.w.now - START).total_seconds())

    def run(self) -> None:
        self.w.settle()
        while self.w.status["phase"] != "Succeeded":
            assert self.second < 5000, "\n".join(self.w.trace)
            self.tick()

    def tick(self) -> None:
        """One second passes, and is written down under its cause; then whatever happens at its end."""
        w, script = self.w, self.script
        cause = self.cause()
        w.wait(1)
        self.truth[cause] += cause != "paused"
        self.act(cause)
        if self.second % REPORT_EVERY == 0 and self.stage in ("startup", "work", "checkpoint", "hang"):
            self.report()
        if self.second in script.faults and self.stage in ("startup", "work", "checkpoint"):
            self.stage, self.left = "dead", script.faults[self.second]
        elif self.second in script.hangs and self.stage == "work":
            self.stage = "hang"
        elif self.second in script.pauses:
            w.edit(suspend=True)
            w.settle()
            self.saved, self.stage, self.left = self.step, "paused", script.pauses[self.second]
        w.settle()
        if self.stage == "hang" and w.status["attempt"] != self.attempt:
            self.begin()

    def cause(self) -> str:
        if self.stage in ("dead", "hang", "replacing"):
            return "restart"
        if self.stage == "work":
            return "replayed" if self.step < self.best else "productive"
        return {"placed": "startup"}.get(self.stage, self.stage)

    def act(self, cause: str) -> None:
        w, stage = self.w, self.stage
        if stage in ("startup", "checkpoint"):
            self.told[stage] += 1
        if stage == "work":
            self.step += 1
            self.told["replayed" if cause == "replayed" and self.script.sees else "productive"] += 1
            if self.step >= self.script.total:
                w.gang("Succeeded")
                return
            if self.step % EVERY == 0:
                self.stage, self.left = "checkpoint", SAVE
            return
        if stage == "hang":
            return
        self.left -= 1
        if self.left > 0:
            return
        if stage == "queued":
            w.placed(*(name for kind, name in w.objects if kind == "Pod"))
            self.stage, self.left = "placed", self.script.placing
        elif stage in ("placed", "replacing"):
            w.gang("Running")
            self.attempt = w.status["attempt"]
            self.told = Counter()
            self.stage, self.left = "startup", STARTUP
        elif stage == "startup":
            self.stage = "work"
        elif stage == "checkpoint":
            self.saved, self.stage = self.step, "work"
        elif stage == "dead":
            w.pod(f"demo-{self.attempt}-0", phase="Failed", exit_code=1)
            w.settle()
            self.begin()
        elif stage == "paused":
            w.edit(suspend=False)
            w.settle()
            self.begin()
            w.placed(*(name for kind, name in w.objects if kind == "Pod"))
            self.stage = "placed"

    def begin(self) -> None:
        """The pods of the next attempt are there; it will begin from what was saved."""
        self.best = max(self.best, self.step)
        self.step = self.saved
        self.stage, self.left = "replacing", self.script.placing

    def report(self) -> None:
        """What rank 0 posts; nothing moves while it hangs."""
        if self.stage == "hang":
            self.w.heard()
            return
        first: Any = self.w.report.first_step if self.w.report and self.w.report.attempt == self.attempt else None
        self.w.reported(
            self.step,
            self.script.total,
            timing={k: float(v) for k, v in self.told.items()},
            first_step=self.step if first is None else first,
        )


SCRIPTS = {
    "undisturbed": Script(total=200),
    "one crash": Script(total=100, faults={118: 2}),
    "crashes and a long way back": Script(total=300, faults={118: 2, 182: 3, 260: 1, 420: 4}),
    "the launcher knows what it does again": Script(total=300, faults={118: 2, 260: 1}, sees=True),
    "a hang": Script(total=200, hangs=(150,)),
    "a pause": Script(total=200, pauses={100: 500}),
    "all of it": Script(total=400, queued=60, faults={118: 2, 390: 3}, hangs=(250,), pauses={550: 100}),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_accounts_agree_with_what_happened(name: str) -> None:
    life = Life(SCRIPTS[name])
    life.run()
    told = life.w.status["goodput"]
    told = {k.removesuffix("Seconds"): v for k, v in told.items() if k not in ("ratio", "stage")}
    elapsed = told.pop("elapsed")
    truth, total = life.truth, sum(life.truth.values())
    shown = {"told": told, "truth": dict(truth)}
    assert sum(told.values()) == pytest.approx(elapsed, rel=0.01), shown
    assert elapsed == pytest.approx(total, rel=0.01), shown
    for cause in told:
        assert told[cause] == pytest.approx(truth[cause], abs=0.02 * total), (cause, shown)
    assert life.w.status["goodput"]["ratio"] == pytest.approx(truth["productive"] / total, abs=0.02), shown


def test_a_ratio_by_hand() -> None:
    """20 s queued, 8 + 5 s to start, 80 steps, one checkpoint of 3 s, a crash that is seen 2 s later, 8 s for new pods
    and 5 s to start, 30 steps again, 20 more: 100 productive seconds of 181."""
    life = Life(Script(total=100, faults={116: 2}))
    life.run()
    assert life.truth == {
        "queued": 20, "startup": 18, "productive": 100, "replayed": 30, "checkpoint": 3, "restart": 10,
    }  # fmt: skip
    assert life.w.status["goodput"]["ratio"] == pytest.approx(100 / 181, abs=0.02)


def test_time_alone_writes_no_account() -> None:
    w = world()
    w.settle()
    w.wait(1000)
    plan = w.plan()
    assert plan.status == w.status


def test_a_trainer_that_tells_no_times_is_productive_while_it_runs() -> None:
    w = world()
    w.settle()
    w.gang("Running")
    w.settle()
    w.wait(100)
    w.gang("Succeeded")
    w.settle()
    goodput = w.status["goodput"]
    assert (goodput["elapsedSeconds"], goodput["productiveSeconds"]) == (100, 100)


def test_a_trainer_that_tells_no_times_worked_from_its_first_report_to_its_last_step() -> None:
    w = world(failurePolicy={"backoffSeconds": 0})
    w.settle()
    w.gang("Running")
    w.settle()
    w.wait(7)
    for step in (0, 40, 80):
        w.reported(step=step)
        w.settle()
        w.wait(40)
    w.pod("demo-1-0", phase="Failed", exit_code=137)
    w.settle()
    goodput = w.status["goodput"]
    assert (goodput["startupSeconds"], goodput["productiveSeconds"], goodput["restartSeconds"]) == (7, 80, 40)


def test_a_trainer_works_before_a_busy_kubelet_says_that_it_runs() -> None:
    w = world()
    w.settle()
    w.placed(*(name for kind, name in w.objects if kind == "Pod"))
    w.settle()
    w.wait(7)
    w.reported(step=0)
    w.settle()
    w.wait(5)
    w.gang("Running")
    w.settle()
    w.wait(30)
    w.reported(step=100)
    w.gang("Succeeded")
    w.settle()
    goodput = w.status["goodput"]
    assert (goodput["startupSeconds"], goodput["productiveSeconds"], goodput["elapsedSeconds"]) == (7, 35, 42)


def test_what_follows_the_last_step_of_a_trainer_that_tells_no_times_is_no_step() -> None:
    w = world()
    w.settle()
    w.gang("Running")
    w.settle()
    w.reported(step=0)
    w.settle()
    w.wait(50)
    w.reported(step=100)
    w.settle()
    w.wait(20)
    w.gang("Succeeded")
    w.settle()
    goodput = w.status["goodput"]
    assert (goodput["productiveSeconds"], goodput["checkpointSeconds"]) == (50, 20)


def test_the_account_of_a_running_stage_is_not_counted_twice() -> None:
    w = world()
    w.settle()
    w.gang("Running")
    w.settle()
    for second in range(10, 110, 10):
        w.wait(10)
        w.reported(step=second, total=200, timing={"productive": float(second)})
        w.settle()
        goodput = w.status["goodput"]
        assert (goodput["elapsedSeconds"], goodput["productiveSeconds"]) == (second, second)
    since = parse_time(goodput["stage"]["since"])
    assert since == START
