"""What a training that finds no place is said to ask for."""

from __future__ import annotations

from typing import Any

import pytest
from modelyard_operator.training.spec import ModelTrainingSpec
from modelyard_operator.training.waiting import asked
from trainings_world import world

SCHEDULER = (
    "0/5 nodes are available: 3 Insufficient nvidia.com/gpu, 1 Insufficient cpu, 4 node(s) had taint {a: b}."
    " preemption: 0/5 nodes are available: 1 No preemption victims found for incoming pod."
)


def spec(nodes: int, **resources: Any) -> ModelTrainingSpec:
    return ModelTrainingSpec.model_validate(
        {"trainer": {"image": "example/train:1", "numNodes": nodes, "resourcesPerNode": resources}}
    )


@pytest.mark.parametrize(
    ("found", "message", "text"),
    [
        (spec(2, limits={"nvidia.com/gpu": 8}), SCHEDULER, "; asked for: 2 nodes with nvidia.com/gpu 8 each"),
        (spec(1, limits={"cpu": "64", "nvidia.com/gpu": 1}), SCHEDULER, "; asked for: nvidia.com/gpu 1, cpu 64"),
        (spec(1, limits={"cpu": "64"}, requests={"cpu": "32"}), SCHEDULER, "; asked for: cpu 32"),
        (spec(1, limits={"memory": "1Ti"}), SCHEDULER, ""),
        (spec(1, limits={"cpu": "64"}), "0/5 nodes are available: 5 node(s) had untolerated taint {a: b}.", ""),
        (
            spec(1, limits={"memory": "1Ti"}),
            "0/1 nodes are available: 1 Insufficient memory.",
            "; asked for: memory 1Ti",
        ),
    ],
)
def test_what_is_short_is_said_with_how_much_was_asked_for(found: ModelTrainingSpec, message: str, text: str) -> None:
    assert asked(found, message) == text


def test_the_condition_says_it() -> None:
    w = world(trainer={"image": "a:1", "numNodes": 2, "resourcesPerNode": {"limits": {"nvidia.com/gpu": 8}}})
    w.settle()
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": SCHEDULER}
    w.objects["Pod", "demo-1-0"]["status"]["conditions"] = [{**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}]
    w.wait(5)
    w.settle()
    for type_ in ("Scheduled", "Stalled"):
        said = w.condition(type_)["message"]
        assert said.startswith("demo-1-0: 0/5 nodes are available: 3 Insufficient nvidia.com/gpu")
        assert said.endswith("; asked for: 2 nodes with nvidia.com/gpu 8 each")
