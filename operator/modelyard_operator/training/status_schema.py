"""The status of a ModelTraining, as its CRD describes it. The operator writes dicts, not these."""
# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.schema import ListMap, Model, Time
from modelyard_operator.status_schema import Conditions, ResolvedModel


class Nodes(Model):
    """The pods of the current attempt."""

    desired: int | None = None
    """How many there must be."""
    ready: int | None = None
    """How many run."""
    failed: int | None = None
    """How many failed."""
    world_size: int | None = None
    """Processes in all."""
    grow_to: int | None = None
    """How many there will be after the next checkpoint."""
    grow_since: Time | None = None
    """When that checkpoint was asked for."""


class Progress(Model):
    """How far the training is, as rank 0 told last."""

    percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """How much is done."""
    step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps in all."""
    epoch: float | None = None
    """Passes over the data."""
    samples_per_second: float | None = None
    """Throughput of all nodes."""
    step_seconds: float | None = None
    """Seconds for one optimizer step."""
    estimated_remaining_seconds: int | None = None
    """How long it may still take."""
    last_update_time: Time | None = None
    """When this was told."""
    metrics: dict[str, str] = {}
    """Loss and other figures, by name."""


class SavedCheckpoint(Model):
    """A complete checkpoint."""

    step: int | None = None
    """Its step."""
    uri: str | None = None
    """Where it is."""
    time: Time | None = None
    """When it was complete."""
    size_bytes: int | None = None
    """Its size."""
    save_seconds: float | None = None
    """How long it took to write; the training went on meanwhile."""


class LastFailure(Model):
    """The rank that failed first in the last attempt that failed, and what was done about it."""

    attempt: int | None = None
    """The attempt that failed."""
    time: Time | None = None
    """When."""
    rank: int | None = None
    """The rank that failed first."""
    pod_name: str | None = None
    """Its pod."""
    node_name: str | None = None
    """Its node."""
    exit_code: int | None = None
    """Its exit code."""
    signal: str | None = None
    """The signal that ended it."""
    reason: str | None = None
    """What kind of failure, in one CamelCase word."""
    rule: str | None = None
    """The failure rule that decided."""
    action: Literal["Restart", "RestartAndIgnoreMaxRestarts", "Fail"] | None = None
    """What was decided."""
    exception_type: str | None = None
    """The exception's class."""
    message: str | None = None
    """What it said."""
    log_tail: str | None = None
    """The last lines of its log; after Stalled, where every rank was, the odd one out first."""
    stacks: str | None = None
    """Where the stacks of the ranks are, after Stalled."""
    step: int | None = None
    """The last step that was done."""
    best_step: int | None = None
    """The furthest step of all failed attempts: progress is a step beyond it."""


class Stage(Model):
    """What is being counted: the operator's own notes."""

    name: str | None = None
    """queued, startup, running, restart; empty while time does not count."""
    attempt: int | None = None
    """Of this attempt."""
    since: Time | None = None
    """Its begin."""
    seconds: dict[str, float] = {}
    """What it has put into the totals, by cause."""
    told_since: Time | None = None
    """When the attempt reported for the first time."""
    from_step: int | None = None
    """The step that the attempt began from."""
    replay_until: int | None = None
    """Steps up to this one had been done before."""
    best_step: int | None = None
    """The furthest step of all attempts."""


class Goodput(Model):
    """What the time went into: every second, but suspended ones, has one cause."""

    elapsed_seconds: float | None = None
    """In all."""
    queued_seconds: float | None = None
    """Waiting for a place."""
    startup_seconds: float | None = None
    """Starting pods and processes."""
    productive_seconds: float | None = None
    """Steps that counted, and evaluations."""
    replayed_seconds: float | None = None
    """Steps done again after a restart."""
    data_wait_seconds: float | None = None
    """Steps that waited for data."""
    checkpoint_seconds: float | None = None
    """Steps that waited for a checkpoint."""
    restart_seconds: float | None = None
    """From the last sign of life before a failure to the next attempt."""
    ratio: float | None = None
    """Productive to elapsed."""
    stage: Stage | None = None
    """What is being counted: the operator's own notes."""


class Artifact(Model):
    """A complete artifact: weights, configuration, golden answers."""

    name: Literal["best", "final"]
    """best by the trainer's metric, or final."""
    step: int | None = None
    """Its step."""
    uri: str | None = None
    """Where it is."""
    digest: str | None = None
    """The sha256 of its manifest."""
    size_bytes: int | None = None
    """Its size."""
    task: str | None = None
    """What it is for."""
    format: str | None = None
    """The format of the weights."""
    metrics: dict[str, str] = {}
    """Its figures, by name."""
    created_at: Time | None = None
    """When it was complete."""


class TrainingDisplay(Model):
    """Words for the columns of `kubectl get`, made from the other fields; programs read those."""

    trainer: str | None = None
    """The builtin trainer, or image."""
    progress: str | None = None
    """As in 45%."""
    eta: str | None = None
    """As in 2m5s."""
    loss: str | None = None
    """The last loss."""
    nodes: str | None = None
    """Running and wanted, as in 2/2."""


class ModelTrainingStatus(Model):
    """What was observed."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""
    phase: str | None = None
    """One word for people, made from the conditions."""
    conditions: Conditions = []
    """Accepted, Suspended, Queued, Scheduled, Running, Restarting, StorageReady, ProgressMade, Reconciling, Stalled,
    Succeeded (Unknown while active), Finished (True on both ends)."""
    start_time: Time | None = None
    """When all nodes ran for the first time."""
    completion_time: Time | None = None
    """When it finished."""
    attempt: int | None = None
    """The current attempt, from 1; 0 before it is let go for the first time."""
    restarts: int | None = None
    """Restarts in all."""
    restarts_count_towards_max: int | None = None
    """Restarts that maxRestarts limits."""
    no_progress_restarts: int | None = None
    """Restarts that counted, since the furthest step: none has led beyond it yet."""
    next_attempt_time: Time | None = None
    """When the next attempt begins, during a pause before it."""
    defaults: str | None = None
    """The parameters that the first attempt was not given, as JSON: an upgrade does not change a training under way."""
    memory_per_node: str | None = None
    """The memory limit of each pod, after onOOM has raised it."""
    model: ResolvedModel | None = None
    """The artifact of another training that this one began from."""
    nodes: Nodes | None = None
    """The pods of the current attempt."""
    progress: Progress | None = None
    """How far the training is, as rank 0 told last."""
    checkpoint: SavedCheckpoint | None = None
    """The newest complete checkpoint."""
    last_failure: LastFailure | None = None
    """The rank that failed first in the last attempt that failed, and what was done about it."""
    goodput: Goodput | None = None
    """What the time went into."""
    artifacts: Annotated[list[Artifact], ListMap(("name",), 16)] = []
    """Complete artifacts, which a ModelService can serve."""
    display: TrainingDisplay | None = None
    """Words for the columns of `kubectl get`, made from the other fields; programs read those."""
