"""From a training's name to one artifact of it: for services that serve it, and trainings that go on from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelyard_operator import conditions
from modelyard_operator.plan import Object


@dataclass(frozen=True, kw_only=True)
class Unresolved:
    """Why there is no model yet. `final` where only an edit can change it."""

    reason: str
    message: str
    final: bool = False


def resolve_artifact(
    training: Object | None, name: str, artifact: str, *, field: str, digest: str = "", then: str
) -> Object | Unresolved:
    """What `status.model` says of the artifact of the ModelTraining `name`.

    `field` names the one that refers to it, `digest` is required where it is not empty, `then` says what happens when
    the training is done.
    """
    if training is None:
        return Unresolved(
            reason="TrainingNotFound",
            message=f'there is no ModelTraining "{name}" in this namespace; apply it, or correct {field}',
        )
    status = training.get("status") or {}
    finished = conditions.is_true(status, "Finished")
    if finished and not conditions.is_true(status, "Succeeded"):
        told = conditions.find(status, "Finished") or {}
        message = f'ModelTraining "{name}" failed: {told.get("message", "")}'
        return Unresolved(reason="TrainingFailed", message=message, final=True)
    artifacts: list[dict[str, Any]] = status.get("artifacts") or []
    found = next((a for a in artifacts if a["name"] == artifact), None)
    if found is None and not finished:
        message = f'ModelTraining "{name}" is {status.get("phase", "Pending")}; {then} when it is done'
        return Unresolved(reason="TrainingNotFinished", message=message)
    if found is None:
        known = ", ".join(a["name"] for a in artifacts) or "none"
        message = f'ModelTraining "{name}" has no artifact "{artifact}"; it has: {known}'
        return Unresolved(reason="ArtifactMissing", message=message, final=True)
    if digest and digest != found["digest"]:
        return Unresolved(
            reason="DigestMismatch",
            message=f'artifact "{artifact}" of ModelTraining "{name}" is {found["digest"]}, '
            f"spec.model.digest requires {digest}",
            final=True,
        )
    known_fields = {key: found.get(key) for key in ("step", "uri", "digest", "sizeBytes", "task")}
    told_fields = {key: value for key, value in known_fields.items() if value is not None}
    if secret := ((training.get("spec") or {}).get("output") or {}).get("secretRef"):
        told_fields["secretRef"] = secret
    return {"source": f"training/{name}", "artifact": artifact, **told_fields}
