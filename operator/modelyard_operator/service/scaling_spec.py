"""The part of a ModelService's spec that says how many servers there are, by load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.schema import Issue, Model, Rule, cel


class Scaling(
    Model,
    json_schema_extra=cel(
        Rule("self.minReplicas <= self.maxReplicas", "minReplicas is above maxReplicas"),
        Rule(
            "self.backend == 'Internal' ? self.metric != 'cpu' : self.minReplicas > 0",
            "cpu needs backend HPA or KEDA; minReplicas 0 needs backend Internal",
        ),
        Rule(
            "self.metric != 'cpu' || self.target <= 10000.0", "cpu is in percent of what a pod requests: at most 10000"
        ),
        Rule("self.backend != 'HPA' || self.metric == 'cpu'", "backend HPA measures cpu only; write metric: cpu"),
    ),
):
    """How many pods, by load."""

    min_replicas: Annotated[int, Field(ge=0)] = 1
    """The fewest pods; 0 lets an idle service have none."""
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    """The most pods."""
    metric: Literal["concurrency", "rps", "cpu", "tokens"] = "concurrency"
    """What is measured: requests in work, requests a second, tokens a second, or for HPA and KEDA percent of cpu."""
    target: Annotated[float, Field(gt=0)] = 1.0
    """The value of the metric to hold for each pod."""
    scale_down_delay_seconds: Annotated[int, Field(ge=0, le=3600)] = 30
    """How long fewer pods must have sufficed."""
    idle_seconds: Annotated[int, Field(ge=1)] = 300
    """How long without a request until there are none."""
    backend: Literal["Internal", "HPA", "KEDA"] = "Internal"
    """What does the scaling. HPA and KEDA change replicas."""


def scaling_issues(scaling: Scaling) -> Iterator[Issue]:
    """The operator's own check of the CEL rules above."""
    path = "spec.scaling"
    if scaling.min_replicas > scaling.max_replicas:
        message = f"{scaling.min_replicas} is above maxReplicas, {scaling.max_replicas}; raise that or lower this"
        yield Issue(f"{path}.minReplicas", message)
    if scaling.backend == "Internal" and scaling.metric == "cpu":
        yield Issue(f"{path}.metric", "cpu is measured by the backends HPA and KEDA; write one of them, or concurrency")
    if scaling.backend == "HPA" and scaling.metric != "cpu":
        yield Issue(f"{path}.metric", f"backend HPA measures cpu only, not {scaling.metric}; write Internal or cpu")
    if scaling.metric == "cpu" and scaling.target > 10_000:
        message = f"cpu is in percent of what a pod requests, at most 10000; got {scaling.target:g}"
        yield Issue(f"{path}.target", message)
    if scaling.backend != "Internal" and scaling.min_replicas == 0:
        yield Issue(f"{path}.minReplicas", "0 needs backend Internal, which holds requests; write at least 1")
