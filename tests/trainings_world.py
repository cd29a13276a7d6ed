"""Trainings on two nodes for the pure tests, and how they get to running."""

from __future__ import annotations

from functools import partial
from typing import Any

from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.sync import sync
from simulation import World

IMAGE = {"trainer": {"image": "example/train:1", "numNodes": 2}}
SURROUNDINGS = Surroundings(
    workloads_image="modelyard/workloads:test", status_url="https://status.modelyard.svc:10443", status_ca="PEM"
)


def world(**changes: Any) -> World:
    return World("ModelTraining", {**IMAGE, **changes}, partial(sync, surroundings=SURROUNDINGS))


def to_running(w: World) -> None:
    w.settle()
    w.gang("Running")
    w.settle()
