"""Conditions (metav1.Condition): set, read, compare. The transition time moves only when the status does."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from modelyard_operator.objects import format_time
from modelyard_operator.plan import Object

MESSAGE_LIMIT = 4096
"""Characters of a condition's message; the API allows 32,768, people read less."""


class Conditions:
    """The conditions of one status under construction, in the order in which they were first set.

    Starts from the conditions observed, so that an unchanged condition keeps its transition time.
    """

    def __init__(self, observed: Iterable[Object], generation: int, now: datetime) -> None:
        self._observed = {c["type"]: c for c in observed}
        self._set: dict[str, Object] = {}
        self._generation = generation
        self.now = now

    def set(self, type_: str, status: bool | None, reason: str, message: str = "") -> None:
        """Set one condition. `status` None is "Unknown"."""
        word = "Unknown" if status is None else str(status)
        before = self._observed.get(type_)
        same = before is not None and before["status"] == word
        self._set[type_] = {
            "type": type_,
            "status": word,
            "reason": reason,
            "message": message[:MESSAGE_LIMIT],
            "observedGeneration": self._generation,
            "lastTransitionTime": before["lastTransitionTime"] if same and before else format_time(self.now),
        }

    def keep(self, *types: str) -> None:
        """Carry observed conditions over unchanged, where nothing new is known of them."""
        for type_ in types:
            if type_ in self._observed and type_ not in self._set:
                self._set[type_] = self._observed[type_]

    def is_true(self, type_: str) -> bool:
        return self._set.get(type_, {}).get("status") == "True"

    def reason(self, type_: str) -> str:
        return str(self._set.get(type_, {}).get("reason", ""))

    def as_list(self) -> list[Object]:
        return list(self._set.values())


def find(status: Object | None, type_: str) -> Object | None:
    """The observed condition of a type, or None."""
    return next((c for c in (status or {}).get("conditions") or () if c["type"] == type_), None)


def is_true(status: Object | None, type_: str) -> bool:
    condition = find(status, type_)
    return condition is not None and condition["status"] == "True"
