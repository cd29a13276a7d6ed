"""The resource ModelTraining: its columns, and the rules between its old and its new state."""

from __future__ import annotations

from modelyard_operator.resources import AGE, Column, Resource
from modelyard_operator.schema import Rule
from modelyard_operator.training.spec import ModelTrainingSpec
from modelyard_operator.training.status_schema import ModelTrainingStatus

_NOT_STARTED = "(!has(oldSelf.status) || !has(oldSelf.status.attempt) || oldSelf.status.attempt < 1)"
"""Until the first attempt a refused spec can be put right; from then on its checkpoints belong to it."""


def _same(field: str) -> str:
    """CEL: the field of the trainer is as it was, or as absent as it was."""
    new, old = f"self.spec.trainer.{field}", f"oldSelf.spec.trainer.{field}"
    return f"(has({new}) == has({old}) && (!has({new}) || {new} == {old}))"


def _fixed(field: str) -> Rule:
    return Rule(
        f"{_NOT_STARTED} || {_same(field)}",
        "can't be changed once training has started; delete this ModelTraining and create a new one",
        f".spec.trainer.{field}",
    )


def _fixed_unless_suspended(field: str) -> Rule:
    return Rule(
        f"{_NOT_STARTED} || self.spec.suspend || oldSelf.spec.suspend || {_same(field)}",
        "can be changed only while suspended; write suspend: true, change it, then write suspend: false",
        f".spec.trainer.{field}",
    )


RESOURCE = Resource(
    kind="ModelTraining",
    plural="modeltrainings",
    short_name="mt",
    description="A model to be trained: by a bundled trainer or by an image of yours, on one or many nodes.",
    spec=ModelTrainingSpec,
    status=ModelTrainingStatus,
    columns=(
        Column("Trainer", ".status.display.trainer"),
        Column("Phase", ".status.phase"),
        Column("Progress", ".status.display.progress"),
        Column("ETA", ".status.display.eta"),
        Column("Loss", ".status.display.loss"),
        Column("Nodes", ".status.display.nodes"),
        Column("Restarts", ".status.restarts", "integer"),
        AGE,
        Column("Step", ".status.progress.step", "integer", wide=True),
        Column("Samples/s", ".status.progress.samplesPerSecond", "number", wide=True),
        Column("Checkpoint", ".status.checkpoint.step", "integer", wide=True),
        Column("Reason", '.status.conditions[?(@.type=="Succeeded")].reason', wide=True),
    ),
    rules=(
        *map(
            _fixed,
            (
                "builtin",
                "parameters",
                "image",
                "command",
                "args",
                "env",
                "rendezvous",
                "numProcPerNode",
                "sharedMemory",
            ),
        ),
        *map(_fixed_unless_suspended, ("numNodes", "resourcesPerNode")),
        Rule(
            "self.spec.managedBy == oldSelf.spec.managedBy",
            "can't be changed; delete this ModelTraining and create a new one",
            ".spec.managedBy",
        ),
    ),
)
