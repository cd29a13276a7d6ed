"""Which model a ModelService serves: from its spec and the training it refers to, to one artifact. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelyard_operator import conditions
from modelyard_operator.plan import Object
from modelyard_operator.service.spec import ModelServiceSpec


@dataclass(frozen=True, kw_only=True)
class Unresolved:
    """Why there is no model yet. `final` where only an edit can change it."""

    reason: str
    message: str
    final: bool = False


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
    if training is None:
        return Unresolved(
            reason="TrainingNotFound",
            message=f'there is no ModelTraining "{ref.name}" in this namespace; apply it, or correct trainingRef.name',
        )
    status = training.get("status") or {}
    if conditions.is_true(status, "Finished") and not conditions.is_true(status, "Succeeded"):
        told = conditions.find(status, "Finished") or {}
        return Unresolved(
            reason="TrainingFailed", message=f'ModelTraining "{ref.name}" failed: {told.get("message", "")}', final=True
        )
    return _artifact(spec, ref.name, ref.artifact, status)


def _artifact(spec: ModelServiceSpec, training: str, name: str, status: Object) -> Object | Unresolved:
    artifacts: list[dict[str, Any]] = status.get("artifacts") or []
    finished = conditions.is_true(status, "Finished")
    found = next((a for a in artifacts if a["name"] == name), None)
    if found is None and not finished:
        phase = status.get("phase", "Pending")
        message = f'ModelTraining "{training}" is {phase}; its model is served when it is done'
        return Unresolved(reason="TrainingNotFinished", message=message)
    if found is None:
        known = ", ".join(a["name"] for a in artifacts) or "none"
        return Unresolved(
            reason="ArtifactMissing",
            message=f'ModelTraining "{training}" has no artifact "{name}"; it has: {known}',
            final=True,
        )
    if spec.model.digest and spec.model.digest != found["digest"]:
        return Unresolved(
            reason="DigestMismatch",
            message=f'artifact "{name}" of ModelTraining "{training}" is {found["digest"]}, '
            f"spec.model.digest requires {spec.model.digest}",
            final=True,
        )
    return _compact(
        {
            "source": f"training/{training}",
            "artifact": name,
            **{key: found.get(key) for key in ("step", "uri", "digest", "sizeBytes", "task")},
        }
    )


def _resolved_generation(status: Object) -> int | None:
    condition = conditions.find(status, "ModelResolved")
    return condition["observedGeneration"] if condition and condition["status"] == "True" else None


def _compact(value: dict[str, Any]) -> Object:
    return {k: v for k, v in value.items() if v is not None}
