"""The status of an object whose spec is refused: every issue at once, and no retry until it is edited. Pure."""

from __future__ import annotations

from datetime import datetime

from modelyard_operator.conditions import Conditions
from modelyard_operator.plan import Event, Object, Plan
from modelyard_operator.schema import InvalidSpec


def refuse(parent: Object, invalid: InvalidSpec, now: datetime, kept: tuple[str, ...]) -> Plan:
    """What runs already is left alone until the spec is mended; `kept` names conditions that stay as they are."""
    before = parent.get("status") or {}
    generation = parent["metadata"].get("generation", 1)
    message = "; ".join(str(issue) for issue in invalid.issues)
    marks = Conditions(before.get("conditions") or (), generation, now)
    marks.set("Accepted", False, "InvalidSpec", message)
    marks.set("Stalled", True, "InvalidSpec", message)
    marks.set("Reconciling", False, "Settled")
    marks.keep(*kept)
    finished = marks.is_true("Finished") or marks.is_true("Ready")
    status = {
        **before,
        "observedGeneration": generation,
        "conditions": marks.as_list(),
        "phase": before["phase"] if finished else "Stalled",
    }
    return Plan(status=status, events=(Event(reason="InvalidSpec", message=message, type="Warning"),))
