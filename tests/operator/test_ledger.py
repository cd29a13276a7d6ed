"""`status.checkpoint` over a whole life: forward with what is told, back only for an attempt that found less."""

from __future__ import annotations

from typing import Any

from modelyard_operator.objects import format_time
from modelyard_operator.plan import Object
from simulation import World
from trainings_world import to_running, world


def saved(w: World, step: int) -> Object:
    uri = f"pvc://demo-output/checkpoints/step-{step:010d}"
    return {"step": step, "uri": uri, "time": format_time(w.now), "sizeBytes": 10}


def told(w: World, step: int, checkpoint: Any) -> None:
    w.reported(step=step, checkpoint=checkpoint)
    w.settle()


def known(w: World) -> int | None:
    return (w.status.get("checkpoint") or {}).get("step")


def test_the_newest_is_kept_over_restarts() -> None:
    w = world()
    to_running(w)
    w.wait(10)
    first = saved(w, 20)
    told(w, 21, first)
    w.wait(10)
    w.pod("demo-1-0", phase="Failed", exit_code=1)
    w.settle()
    to_running(w)
    assert known(w) == 20, "the second attempt has said nothing yet"
    told(w, 20, first)
    w.wait(10)
    told(w, 40, saved(w, 40))
    assert w.status["checkpoint"] == saved(w, 40)


def test_what_was_saved_at_the_end_is_known_though_no_report_told_it() -> None:
    w = world()
    to_running(w)
    w.wait(10)
    early = saved(w, 20)
    told(w, 25, early)
    w.wait(5)
    record = {"failure": {"reason": "Checkpointed"}, "step": 30, "checkpoint": saved(w, 30)}
    w.pod("demo-1-0", phase="Failed", exit_code=75, message=record)
    w.settle()
    assert (known(w), w.status["lastFailure"]["step"]) == (30, 30)


def test_a_late_report_does_not_take_it_back() -> None:
    w = world()
    to_running(w)
    w.wait(10)
    early = saved(w, 20)
    told(w, 25, early)
    w.edit(suspend=True)
    w.reconcile()
    w.wait(5)
    w.pod("demo-1-0", phase="Failed", exit_code=75, message={"checkpoint": saved(w, 30)})
    w.settle()
    assert ("Pod", "demo-1-0") not in w.objects and known(w) == 30
    w.settle()
    assert known(w) == 30, "the last report, from before the end, is old news"


def test_an_attempt_that_found_the_newest_damaged_tells_the_truth() -> None:
    w = world()
    to_running(w)
    w.wait(10)
    old = saved(w, 20)
    w.wait(10)
    told(w, 41, saved(w, 40))
    w.wait(5)
    w.pod("demo-1-0", phase="Failed", exit_code=1)
    w.settle()
    to_running(w)
    told(w, 20, old)
    assert known(w) == 20


def test_a_record_that_is_no_record_is_ignored() -> None:
    w = world()
    to_running(w)
    w.pod("demo-1-0", phase="Failed", exit_code=1, message={"checkpoint": {"step": 1, "time": "yesterday"}})
    w.settle()
    assert known(w) is None and w.status["attempt"] == 2
