"""A training that does not move: what is asked of its launchers, when it is given up, and what is no stall."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from modelyard_operator.training.directives import Instruction, instruction_for
from modelyard_operator.training.report import Posted, taken
from simulation import START, World
from trainings_world import to_running, world

CONTINUE = {"directive": "continue"}


def stalled() -> World:
    w = world(runPolicy={"progressDeadlineSeconds": 60})
    to_running(w)
    w.reported(step=10)
    w.settle()
    w.wait(60)
    w.settle()
    return w


def asked(w: World) -> Instruction:
    return instruction_for(w.parent)


def test_the_stacks_are_asked_for_once_and_as_soon_as_it_is_stalled() -> None:
    w = stalled()
    assert w.status["phase"] == "Stalled"
    assert w.condition("Stalled")["reason"] == "NoProgress"
    assert "no progress for 60 s after step 10" in w.condition("Stalled")["message"]
    first = asked(w)
    assert first.directive == "dumpStacks" and first.id
    w.wait(5)
    w.heard()
    w.settle()
    assert asked(w) == first, "the same stall, the same id"


def test_it_is_restarted_when_the_stacks_are_there_and_says_where() -> None:
    w = stalled()
    w.wait(5)
    w.heard(stacks={"uri": "pvc://demo-output/stacks/1.txt"})
    w.settle()
    assert w.status["attempt"] == 2
    failure = w.status["lastFailure"]
    assert (failure["reason"], failure["step"], failure["stacks"]) == ("Stalled", 10, "pvc://demo-output/stacks/1.txt")
    assert "pvc://demo-output/stacks/1.txt" in failure["message"]
    assert asked(w).as_json() == CONTINUE


def test_what_the_ranks_were_doing_is_in_the_status_even_where_the_volume_refuses_their_stacks() -> None:
    w = stalled()
    w.wait(5)
    w.heard(stacks={"uri": "", "path": "", "digest": "rank 1: is stopped (SIGSTOP) and cannot show its stack"})
    w.settle()
    failure = w.status["lastFailure"]
    assert (w.status["attempt"], failure["reason"], failure.get("stacks")) == (2, "Stalled", None)
    assert failure["logTail"] == "rank 1: is stopped (SIGSTOP) and cannot show its stack"
    assert "in the logs of the pods" in failure["message"]


def test_it_is_restarted_without_stacks_after_a_while() -> None:
    w = stalled()
    left = w.plan().requeue_after
    assert left is not None and left <= 15
    w.wait(left)
    w.settle()
    assert w.status["attempt"] == 2 and "no stacks" in w.status["lastFailure"]["message"]


def test_a_restarted_operator_asks_again_and_acts_in_time() -> None:
    w = stalled()
    w.report = None  # its memory
    assert asked(w).directive == "dumpStacks"
    w.settle()
    assert w.status["phase"] == "Stalled"
    w.wait(15)
    w.settle()
    assert w.status["attempt"] == 2


def test_movement_ends_a_stall_and_the_next_one_has_an_id_of_its_own() -> None:
    w = stalled()
    first = asked(w)
    w.wait(2)
    w.reported(step=11)
    w.settle()
    assert w.status["phase"] == "Running" and asked(w).as_json() == CONTINUE
    w.wait(60)
    w.settle()
    second = asked(w)
    assert second.directive == "dumpStacks" and second.id != first.id


def test_a_training_that_reports_nothing_is_left_alone() -> None:
    w = world(runPolicy={"progressDeadlineSeconds": 60})
    to_running(w)
    w.wait(100_000)
    w.settle()
    assert w.status["phase"] == "Running"


def test_loading_libraries_and_data_is_no_stall() -> None:
    w = world(runPolicy={"progressDeadlineSeconds": 60, "startupDeadlineSeconds": 600})
    to_running(w)
    w.reported(step=0, progress={"tick": 0}, trainer_status={"progressPercentage": 0})
    w.wait(599)
    w.settle()
    assert w.status["phase"] == "Running"
    w.reported(step=0)
    w.wait(60)
    w.settle()
    assert w.status["phase"] == "Stalled", "from the first step on the shorter deadline holds"


def test_a_start_that_never_ends_is_a_stall() -> None:
    w = world(runPolicy={"progressDeadlineSeconds": 60, "startupDeadlineSeconds": 600})
    to_running(w)
    w.reported(step=0, progress={"tick": 0}, trainer_status={"progressPercentage": 0})
    w.wait(600)
    w.settle()
    assert w.status["phase"] == "Stalled" and "no progress for 600 s" in w.condition("Stalled")["message"]


def test_every_movement_counts() -> None:
    body: dict[str, Any] = {"trainerStatus": {"progressPercentage": 1}, "progress": {"step": 1, "tick": 1}}
    before = taken(None, 1, Posted.model_validate(body), START)
    later = START + timedelta(seconds=5)
    again = taken(before, 1, Posted.model_validate(body), later)
    assert (again.advanced, again.received) == (START, later)
    for moved in (
        {"progress": {"step": 1, "tick": 2}},
        {"progress": {"step": 2, "tick": 1}},
        {"progress": {"step": 1, "tick": 1, "phase": "evaluate"}},
        {"trainerStatus": {"progressPercentage": 2}},
    ):
        assert taken(before, 1, Posted.model_validate({**body, **moved}), later).advanced == later, moved
