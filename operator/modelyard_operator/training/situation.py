"""One training as it is seen at one moment: what every stage of its life decides upon. Plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from modelyard_operator import conditions
from modelyard_operator.plan import Children, Object, Report
from modelyard_operator.training.gang import Gang
from modelyard_operator.training.spec import ModelTrainingSpec


@dataclass(frozen=True, kw_only=True)
class Situation:
    """The object, its spec as typed, its pods as classified, the other children, and the time."""

    training: Object
    spec: ModelTrainingSpec
    """As the current attempt has it (`shape`)."""
    written: ModelTrainingSpec
    """As the user wrote it."""
    gang: Gang
    children: Children
    now: datetime

    @property
    def status(self) -> Object:
        """As it was written last."""
        return self.training.get("status") or {}

    @property
    def name(self) -> str:
        return str(self.training["metadata"]["name"])

    @property
    def report(self) -> Report | None:
        """The last report of the current attempt."""
        report = self.children.report
        return report if report is not None and report.attempt == self.gang.attempt else None

    def was(self, condition: str) -> bool:
        """Whether a condition was true when the status was written last."""
        return conditions.is_true(self.status, condition)

    def without_pods(self) -> Situation:
        """The same, before the next attempt has any pod."""
        return replace(self, gang=replace(self.gang, pods={}))
