"""The weights that a training begins with: an artifact of another training is waited for and pinned. Pure."""

from __future__ import annotations

from modelyard_operator import conditions
from modelyard_operator.lineage import Unresolved, resolve_artifact
from modelyard_operator.plan import Event, Object, Plan
from modelyard_operator.training.situation import Situation
from modelyard_operator.training.status import Step, make_status, urgency_of
from modelyard_operator.uris import training_artifact


def settle(situation: Situation) -> Plan | None:
    """The plan while the artifact is looked for, and the decision when it is found; None where nothing is left to do.

    What was found stays until the spec names another: the record tells what the training began from.
    """
    wanted = training_artifact(situation.spec.model.uri)
    if wanted is None:
        return None
    name, artifact = wanted
    pinned = situation.status.get("model") or {}
    if (pinned.get("source"), pinned.get("artifact")) == (f"training/{name}", artifact):
        return None
    found = _find(situation, name, artifact)
    if not isinstance(found, Unresolved):
        status = make_status(situation, Step()) | {"model": found}
        event = Event(reason="ModelResolved", message=f"beginning from {found['uri']}")
        return Plan(status=status, decided=True, events=(event,))
    status = make_status(situation, Step(waiting=found))
    before = conditions.find(situation.status, "Scheduled") or {}
    event = Event(reason=found.reason, message=found.message, type="Warning" if found.final else "Normal")
    return Plan(
        status=status,
        urgency=urgency_of(situation.status, status),
        events=() if before.get("message") == found.message else (event,),
    )


def _find(situation: Situation, name: str, artifact: str) -> Object | Unresolved:
    if name == situation.name:
        message = "spec.model.uri names this training itself; name another one, or remove it"
        return Unresolved(reason="TrainingNotFound", message=message, final=True)
    other = situation.children.training
    return resolve_artifact(other, name, artifact, field="spec.model.uri", then="this one begins")
