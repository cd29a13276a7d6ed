"""What the launchers of a training are asked to do, in the answer to their reports. Pure.

Read from the status alone, where every decision is written first: an operator that was restarted asks the same again,
and the launcher, which acts once an id, does not do it twice.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from modelyard_operator import conditions
from modelyard_operator.plan import Object
from modelyard_operator.training.stall import NO_PROGRESS


class Directive(StrEnum):
    """Continue asks for nothing."""

    CONTINUE = "continue"
    CHECKPOINT = "checkpoint"
    DUMP_STACKS = "dumpStacks"


class Instruction(NamedTuple):
    """A directive, and the id by which a launcher knows whether it has followed it; empty for continue."""

    directive: Directive
    id: str = ""

    def as_json(self) -> dict[str, str]:
        """The answer to a report; a client that knows no directives finds nothing that it must read."""
        return {"directive": self.directive.value} | ({"directiveId": self.id} if self.id else {})


def instruction_for(training: Object) -> Instruction:
    """What the current attempt is asked for now."""
    status = training.get("status") or {}
    stalled = conditions.find(status, "Stalled")
    if stalled and stalled["status"] == "True" and stalled["reason"] == NO_PROGRESS:
        return Instruction(Directive.DUMP_STACKS, f"{status.get('attempt')}-stacks-{stalled['lastTransitionTime']}")
    nodes = status.get("nodes") or {}
    if "growTo" in nodes:
        return Instruction(Directive.CHECKPOINT, f"{status.get('attempt')}-grow-{nodes['growSince']}")
    return Instruction(Directive.CONTINUE)
