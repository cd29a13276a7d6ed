"""Any course of a training's life: crashes, evictions, pauses, stalls and lost pods, in whatever order they come.

After each event the training is reconciled until nothing changes any more, and after every single step of that what
users rely on must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelyard_operator.conditions import find
from simulation import World
from trainings_world import world
from walks import walked

MAX_RESTARTS = 3
PHASES = ("Pending", "Running", "Succeeded", "Failed")
ELASTIC = {"minNodes": 1, "maxNodes": 3, "shrinkAfterSeconds": 30, "growCheckSeconds": 60, "growMinSeconds": 60}


def _pods(w: World, *phases: str) -> list[str]:
    return sorted(name for (kind, name), pod in w.objects.items() if kind == "Pod" and pod["status"]["phase"] in phases)


def ended(w: World, which: int, **state: Any) -> None:
    """A pod that runs ends; the first or the last one."""
    if running := _pods(w, "Running"):
        w.pod(running[which], **state)


def lost(w: World, which: int) -> None:
    if there := _pods(w, "Pending", "Running"):
        w.lose("Pod", there[which])


def all_run(w: World) -> None:
    for name in _pods(w, "Pending"):
        w.pod(name, phase="Running")


def one_runs(w: World) -> None:
    if pending := _pods(w, "Pending"):
        w.pod(pending[0], phase="Running")


def no_room(w: World) -> None:
    """The scheduler finds no place for the last pod that waits."""
    if pending := _pods(w, "Pending"):
        w.placed(*pending[:-1])


def all_succeed(w: World) -> None:
    for name in _pods(w, "Running"):
        w.pod(name, phase="Succeeded")


def progress(w: World) -> None:
    if _pods(w, "Running"):
        step = 0 if w.report is None else w.report.progress["step"]
        w.reported(step=min(100, step + 10))


CHECKPOINTED = {"failure": {"reason": "Checkpointed"}, "step": 30}
EVENTS: dict[str, Callable[[World], Any]] = {
    "all run": all_run,
    "one runs": one_runs,
    "no room": no_room,
    "the first crashes": lambda w: ended(w, 0, phase="Failed", exit_code=1),
    "the last crashes": lambda w: ended(w, -1, phase="Failed", exit_code=1),
    "out of memory": lambda w: ended(w, -1, phase="Failed", exit_code=137, reason="OOMKilled"),
    "bad configuration": lambda w: ended(w, 0, phase="Failed", exit_code=64),
    "evicted": lambda w: ended(w, -1, phase="Failed", exit_code=75, message=CHECKPOINTED),
    "the first is lost": lambda w: lost(w, 0),
    "the last is lost": lambda w: lost(w, -1),
    "one succeeds": lambda w: ended(w, -1, phase="Succeeded"),
    "all succeed": all_succeed,
    "progress": progress,
    "suspend": lambda w: w.edit(suspend=True),
    "resume": lambda w: w.edit(suspend=False),
    "a second": lambda w: w.wait(1),
    "a minute": lambda w: w.wait(60),
    "a quarter": lambda w: w.wait(901),
}


def _finished(w: World) -> bool:
    return (find(w.status, "Finished") or {}).get("status") == "True"


def _attempts(names: Iterable[str]) -> set[int]:
    return {int(name.split("-")[1]) for name in names}


def _steps(w: World, walk: list[str], begun: set[int]) -> None:
    """Reconcile until quiet; at each step, what is never to happen has not. `begun`: attempts that were whole once."""
    for _ in range(40):
        before, there = w.status, set(_pods(w, *PHASES))
        attempt = before.get("attempt", 0)
        there_and_begun = [name for name in _pods(w, *PHASES[1:]) if name.startswith(f"demo-{attempt}-")]
        if attempt and len(there_and_begun) >= before["nodes"]["desired"]:
            begun.add(attempt)
        went_on = w.reconcile()
        told = "\n".join([*walk, *w.trace[-12:]])
        status, made = w.status, set(_pods(w, *PHASES)) - there
        assert not _attempts(made) & begun, f"an attempt that began gets other pods:\n{told}"
        assert status.get("attempt", 0) >= before.get("attempt", 0), f"an attempt comes back:\n{told}"
        assert status.get("restartsCountTowardsMax", 0) <= MAX_RESTARTS, told
        assert _attempts(made) <= {status.get("attempt", 1)}, f"a pod of another attempt is made:\n{told}"
        if not went_on:
            return
    raise AssertionError("never quiet:\n" + "\n".join([*walk, *w.trace[-20:]]))


@walked
@given(st.lists(st.sampled_from(sorted(EVENTS)), min_size=5, max_size=50), st.booleans())
def test_whatever_happens_each_attempt_is_whole_and_an_end_is_the_end(walk: list[str], elastic: bool) -> None:
    policies: dict[str, Any] = {"failurePolicy": {"maxRestarts": MAX_RESTARTS, "backoffSeconds": 5}}
    w = world(**policies, **({"elasticPolicy": ELASTIC} if elastic else {}))
    begun: set[int] = set()
    for number, event in enumerate(walk):
        over, result = _finished(w), (w.status.get("phase"), w.status.get("attempt"))
        EVENTS[event](w)
        _steps(w, walk[: number + 1], begun)
        told = "\n".join([*walk[: number + 1], *w.trace[-12:]])
        if over:
            assert (w.status["phase"], w.status["attempt"]) == result, f"an end was not the end:\n{told}"
        elif w.parent["spec"].get("suspend") and not _finished(w):
            assert not _pods(w, "Pending", "Running"), f"suspended, and pods are there:\n{told}"
        assert not _finished(w) or not _pods(w, "Pending", "Running"), f"over, and pods are there:\n{told}"
        running = _attempts(_pods(w, "Running"))
        assert running <= {w.status.get("attempt", 1)}, f"pods of an earlier attempt still run:\n{told}"
