"""More memory after running out of it: how much, up to where, and what the pods then ask for."""

from __future__ import annotations

from typing import Any

import pytest
from modelyard_operator.pods import Resources
from modelyard_operator.training.failure import Failure
from modelyard_operator.training.memory import raised, with_memory
from modelyard_operator.training.spec import ModelTrainingSpec
from trainings_world import IMAGE, to_running, world

OOM = Failure(reason="OOMKilled", exit_code=137)
TABLE = [
    # the limit, the policy -> the next limit
    ("64Mi", {"memoryFactor": 1.5, "memoryMax": "1Gi"}, "96Mi"),
    ("96Mi", {"memoryFactor": 1.5, "memoryMax": "1Gi"}, "144Mi"),
    ("1Gi", {"memoryFactor": 2, "memoryMax": "1536Mi"}, "1536Mi"),
    ("1Gi", {"memoryFactor": 2, "memoryMax": "1Gi"}, None),
    ("2Gi", {"memoryFactor": 2, "memoryMax": "1Gi"}, None),
    ("1G", {"memoryFactor": 1.5, "memoryMax": "8G"}, "1430Mi"),
    ("1Gi", {"memoryMax": "8Gi"}, None),
    (None, {"memoryFactor": 2, "memoryMax": "1Gi"}, None),
    ("1Gi", None, None),
]


def spec(limit: str | None, policy: dict[str, Any] | None) -> ModelTrainingSpec:
    limits = {"memory": limit} if limit else {}
    trainer = {"image": "a/b", "resourcesPerNode": {"limits": limits}}
    return ModelTrainingSpec.model_validate({"trainer": trainer, "failurePolicy": {"onOOM": policy}})


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_the_next_limit(case: tuple[str | None, dict[str, Any] | None, str | None]) -> None:
    limit, policy, after = case
    assert raised(spec(limit, policy), OOM) == after


def test_other_failures_raise_nothing() -> None:
    policy = {"memoryFactor": 2, "memoryMax": "8Gi"}
    assert raised(spec("1Gi", policy), Failure(reason="Signal", exit_code=137)) is None


def test_requests_grow_in_proportion() -> None:
    before = Resources(limits={"memory": "64Mi", "cpu": "1"}, requests={"memory": "32Mi", "cpu": "500m"})
    after = with_memory(before, "96Mi")
    assert after.limits == {"memory": "96Mi", "cpu": "1"}
    assert after.requests == {"memory": "48Mi", "cpu": "500m"}
    assert with_memory(before, "32Mi") is before, "what the spec asks for is the least"


def test_the_next_attempt_has_it_and_keeps_it_after_a_pause() -> None:
    limits = {"resourcesPerNode": {"limits": {"memory": "64Mi"}}}
    w = world(
        trainer={**IMAGE["trainer"], **limits}, failurePolicy={"onOOM": {"memoryFactor": 2, "memoryMax": "128Mi"}}
    )
    to_running(w)
    w.pod("demo-1-0", phase="Failed", exit_code=137, reason="OOMKilled")
    w.reconcile()
    assert w.status["memoryPerNode"] == "128Mi"
    assert {p["spec"]["containers"][0]["resources"]["limits"]["memory"] for p in w.plan().create} == {"128Mi"}
    to_running(w)
    w.edit(suspend=True)
    w.settle()
    w.edit(suspend=False)
    w.reconcile()
    assert {p["spec"]["containers"][0]["resources"]["limits"]["memory"] for p in w.plan().create} == {"128Mi"}
