"""Which model a ModelService serves: from its spec and the training it refers to, to one artifact. Pure."""

from __future__ import annotations

from typing import Any

from modelyard_operator import conditions
from modelyard_operator.lineage import Unresolved, resolve_artifact
from modelyard_operator.plan import Object
from modelyard_operator.service.spec import ModelServiceSpec


def resolve(service: Object, spec: ModelServiceSpec, training: Object | None) -> Object | Unresolved:
    """`status.model`: what is served. A Pinned reference stays what it was resolved to, for one generation."""
    source = spec.model.source
    if source.uri:
        return _compact({"source": "uri", "uri": source.uri, "digest": spec.model.digest or None})
    before = service.get("status") or {}
    ref = source.training_ref
    assert ref is not None, "the spec's one-of rule has checked this"
    pinned = before.get("model")
    if ref.policy == "Pinned" and pinned and _resolved_generation(before) == service["metadata"].get("generation", 1):
        return dict(pinned)
    return resolve_artifact(
        training,
        ref.name,
        ref.artifact,
        field="trainingRef.name",
        digest=spec.model.digest or "",
        then="its model is served",
    )


def _resolved_generation(status: Object) -> int | None:
    condition = conditions.find(status, "ModelResolved")
    return condition["observedGeneration"] if condition and condition["status"] == "True" else None


def _compact(value: dict[str, Any]) -> Object:
    return {k: v for k, v in value.items() if v is not None}
