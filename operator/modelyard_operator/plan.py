"""What a reconcile sees and what it wants: plain frozen data, no effects.

The contract is Metacontroller's `sync`: the observed parent and children go in, the complete desired state comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from typing import Any, NamedTuple

from modelyard_operator.load import Load
from modelyard_operator.room import Room

Object = dict[str, Any]
"""A Kubernetes object as the API server speaks it: a JSON object."""


class Key(NamedTuple):
    """Names one of our custom resources; the unit of work of the queue."""

    kind: str
    namespace: str
    name: str


class Urgency(IntEnum):
    """How soon a changed status has to be seen. Writes are counted: what can wait is merged into the next write."""

    LATER = 0
    """Progress figures: at most one write in ten seconds."""
    SOON = 1
    """On the way to a phase that follows within moments: merged when it comes within a second."""
    NOW = 2
    """A phase or a condition that people and programs wait for."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A Kubernetes Event to record on the parent, after the status it belongs to was written."""

    reason: str
    message: str
    type: str = "Normal"


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """A child to delete. The uid is a precondition: a namesake made in the meantime is never touched."""

    kind: str
    name: str
    uid: str
    grace_seconds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Fields of an object that is not ours to render: a merge patch, sent unless the object has them already."""

    kind: str
    name: str
    body: Mapping[str, Any]
    """What is to be so. With `metadata.resourceVersion` only of that version of the object."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Progress of a training as its rank 0 last posted it (the TrainJob status protocol, see `status_server`)."""

    attempt: int
    received: datetime
    advanced: datetime
    """When anything last moved: the step, the percentage, the tick of a long evaluation or checkpoint, the phase."""
    trainer_status: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] | None = None
    timing: Mapping[str, float] = field(default_factory=dict)
    """Seconds of this attempt by cause."""
    first_step: int | None = None
    """The first step that the attempt reported: what it began from."""
    first_received: datetime | None = None
    """When the attempt said its first word."""

    @property
    def has_begun(self) -> bool:
        """Whether steps are told of: before that, libraries are loaded, data is fetched, and nothing can move."""
        return self.progress.get("step") is not None or bool(self.trainer_status.get("progressPercentage"))

    stacks: Mapping[str, Any] | None = None
    """The stacks of the ranks: `uri` or `path` of where the launcher left them, and a `digest` for the status."""


@dataclass(frozen=True, kw_only=True)
class Children:
    """Everything observed that belongs to one parent, as the watches last showed it."""

    pods: tuple[Object, ...] = ()
    services: tuple[Object, ...] = ()
    claims: tuple[Object, ...] = ()
    deployments: tuple[Object, ...] = ()
    extras: tuple[Object, ...] = ()
    """Routes from outside, disruption budgets, autoscalers and gang schedulers of others."""
    training: Object | None = None
    """The ModelTraining that a ModelService refers to; None where there is none of that name."""
    report: Report | None = None
    load: Load | None = None
    """What was measured of a ModelService."""
    held_claims: tuple[Object, ...] = ()
    """Claims that a ModelService serves from, or that name it as an owner."""
    pod_warnings: Mapping[str, str] = field(default_factory=dict)
    """Pod name -> the newest Warning event of a pod that has been waiting for some seconds."""
    room: Mapping[str, Room] = field(default_factory=dict)
    """Extended resource that a pod finds too little of -> how much of it is free; empty where that is not known."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Child kind/name -> why it could not be written: an object of that name belongs to somebody else, a quota…"""
    absent: frozenset[str] = frozenset()
    """Names of pods that the API server itself said are gone, not merely unseen by the watch."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer of `sync`.

    `decided` says that the status holds a new decision (the next attempt, a resolved digest). It is written first,
    guarded by the resourceVersion it was computed from, and nothing else is done: the watch brings it back and the
    next reconcile acts upon it. So a crash between any two writes neither loses nor repeats a decision.
    """

    status: Object | None = None
    decided: bool = False
    urgency: Urgency = Urgency.NOW
    apply: tuple[Object, ...] = ()
    """Children that are kept as rendered here: created when absent, repaired when they differ."""
    create: tuple[Object, ...] = ()
    """Pods: created when absent, all at once, after `apply`; their specs cannot change."""
    patch: tuple[Patch, ...] = ()
    delete: tuple[Deletion, ...] = ()
    delete_parent: bool = False
    verify: tuple[str, ...] = ()
    """Pods that should be there and are not seen: the API server is asked for them before anything is concluded."""
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until the passing of time alone could change the answer."""
