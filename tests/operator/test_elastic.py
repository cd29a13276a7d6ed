"""Training with the nodes that there are: when it shrinks, how it grows, and what it never does."""

from __future__ import annotations

from typing import Any

from modelyard_operator.training.directives import instruction_for
from simulation import World, assert_golden
from trainings_world import world

FOUR = {"trainer": {"image": "example/train:1", "numNodes": 4}}


def elastic(**policy: Any) -> World:
    return world(**FOUR, elasticPolicy={"minNodes": 2, "shrinkAfterSeconds": 30, **policy})


def pods(w: World) -> list[str]:
    return sorted(name for kind, name in w.objects if kind == "Pod")


def names(attempt: int, *ranks: int) -> list[str]:
    return [f"demo-{attempt}-{rank}" for rank in ranks]


def run(w: World, *there: str) -> None:
    for name in there:
        w.pod(name, phase="Running")
    w.settle()


def shrunk() -> World:
    """Of four nodes three have found a place; the second attempt runs with them."""
    w = elastic()
    w.settle()
    w.placed(*names(1, 0, 1, 3))
    run(w, *names(1, 0, 1, 3))
    w.wait(30)
    w.settle()
    run(w, *names(2, 0, 1, 2))
    return w


def test_it_shrinks_to_the_nodes_that_found_a_place_and_grows_back_at_a_checkpoint() -> None:
    w = shrunk()
    assert w.status["nodes"] == {"desired": 3, "ready": 3, "failed": 0, "worldSize": 3}
    assert (w.status["phase"], w.status.get("restartsCountTowardsMax", 0)) == ("Running", 0)
    w.placed()
    assert pods(w) == names(2, 0, 1, 2, 3), "a spare pod asks for the place of the fourth"
    w.wait(600)
    w.settle()
    assert w.status["attempt"] == 2, "no room, no change"

    w.placed("demo-2-3")
    w.settle()
    assert w.status["nodes"]["growTo"] == 4 and w.status["attempt"] == 2
    asked = instruction_for(w.parent)
    assert asked.directive == "checkpoint" and asked.id
    w.wait(5)
    saved = {"step": 50, "uri": "pvc://demo-output/checkpoints/50", "time": "2026-01-01T00:12:00Z", "sizeBytes": 1}
    w.reported(step=51, checkpoint=saved)
    w.reconcile()
    assert (w.status["attempt"], w.status["nodes"]["desired"]) == (3, 4)
    assert instruction_for(w.parent).directive == "continue"
    w.settle()
    run(w, *names(3, 0, 1, 2, 3))
    assert w.status["nodes"]["ready"] == 4 and w.status["phase"] == "Running"
    assert pods(w) == names(3, 0, 1, 2, 3), "and no spare is left"
    assert_golden("shrinks_and_grows", w, "Finished")


def test_the_pods_of_the_smaller_gang_may_save_before_the_larger_begins() -> None:
    w = shrunk()
    w.wait(60)
    w.placed("demo-2-3")
    w.settle()
    w.wait(60)
    w.reconcile()
    assert w.status["attempt"] == 3
    plan = w.plan()
    assert {d.name: d.grace_seconds for d in plan.delete} == dict.fromkeys(names(2, 0, 1, 2)), "their own grace"
    assert not plan.create, "the place is held, and nothing is begun while they save"
    for name in names(2, 0, 1, 2):
        del w.objects["Pod", name]
    plan = w.plan()
    assert {d.name: d.grace_seconds for d in plan.delete} == {"demo-2-3": 1}
    assert [p["metadata"]["name"] for p in plan.create] == names(3, 0, 1, 2, 3)


def test_it_does_not_shrink_below_the_fewest_nodes() -> None:
    w = elastic()
    w.settle()
    w.placed("demo-1-2")
    w.settle()
    w.wait(300)
    w.settle()
    assert w.status["attempt"] == 1 and w.status["phase"] == "Stalled"
    left = w.plan().requeue_after
    assert left is not None and left > 1000, "time alone changes nothing before the startup deadline"


def test_without_the_policy_it_waits() -> None:
    w = world(**FOUR)
    w.settle()
    w.placed(*names(1, 0, 1, 3))
    w.wait(300)
    w.settle()
    assert w.status["attempt"] == 1 and w.status["nodes"]["desired"] == 4


def test_a_lost_node_leads_to_a_smaller_gang() -> None:
    w = elastic()
    w.settle()
    run(w, *names(1, 0, 1, 2, 3))
    w.lose("Pod", "demo-1-3")
    w.settle()
    assert (w.status["attempt"], w.status["nodes"]["desired"]) == (2, 4), "first with a replacement"
    w.placed(*names(2, 0, 1, 2))
    w.settle()
    w.wait(30)
    w.settle()
    assert (w.status["attempt"], w.status["nodes"]["desired"]) == (3, 3)
    assert w.status.get("restartsCountTowardsMax", 0) == 0


def test_more_nodes_than_asked_for_are_taken_when_there_is_room() -> None:
    w = elastic(maxNodes=6)
    w.settle()
    run(w, *names(1, 0, 1, 2, 3))
    assert pods(w) == names(1, 0, 1, 2, 3, 4, 5)
    w.placed(*names(1, 5))
    w.wait(60)
    w.settle()
    assert w.status["nodes"]["growTo"] == 5


def test_a_spare_that_is_refused_is_nobodys_business() -> None:
    w = shrunk()
    w.refusals = {"Pod/demo-2-3": "exceeded quota"}
    w.settle()
    assert w.status["phase"] == "Running"


def test_a_pause_begins_anew_with_what_the_user_wrote() -> None:
    w = shrunk()
    w.edit(suspend=True)
    w.settle()
    assert pods(w) == []
    w.edit(suspend=False)
    w.settle()
    assert pods(w) == names(3, 0, 1, 2, 3)


def test_a_spare_holds_a_place_and_does_nothing() -> None:
    w = shrunk()
    del w.objects["Pod", "demo-2-3"]
    (spare,) = w.plan().create
    container = spare["spec"]["containers"][0]
    assert container["command"] == ["sleep", "infinity"] and "env" not in container
    assert container["image"] == "example/train:1"
    assert spare["metadata"]["labels"]["modelyard.dev/role"] == "spare"
