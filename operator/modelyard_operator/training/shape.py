"""The spec as the current attempt has it: what the training's life has changed of what the user wrote. Pure."""

from __future__ import annotations

from typing import Any

from modelyard_operator.plan import Object
from modelyard_operator.training.memory import with_memory
from modelyard_operator.training.spec import ModelTrainingSpec


def of_attempt(spec: ModelTrainingSpec, status: Object) -> ModelTrainingSpec:
    """With as many nodes as were decided on, and the memory that running out of it has led to.

    Everything that is rendered is rendered from this.
    """
    changes: dict[str, Any] = {}
    if memory := status.get("memoryPerNode"):
        changes["resources_per_node"] = with_memory(spec.trainer.resources_per_node, memory)
    if spec.elastic_policy is not None and (nodes := (status.get("nodes") or {}).get("desired")):
        changes["num_nodes"] = nodes
    return spec.model_copy(update={"trainer": spec.trainer.model_copy(update=changes)}) if changes else spec
