"""The policies of a ModelTraining: checkpoints, elasticity, failures, deadlines."""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.schema import ListMap, Matches, Model, Quantity, Rule, cel


class Checkpoint(Model):
    """When state is saved, and what a restart begins from."""

    every_steps: Annotated[int, Field(ge=1)] | None = None
    """Save after so many steps, or after everySeconds, whichever comes first; null is off."""
    every_seconds: Annotated[int, Field(ge=1)] | None = 600
    """Save after so many seconds; null is off."""
    keep_last: Annotated[int, Field(ge=1, le=1000)] = 2
    """How many checkpoints are kept."""
    resume: Literal["Auto", "Never", "Required"] = "Auto"
    """Auto begins from the newest complete checkpoint if there is one; Required fails without; Never begins anew."""


class ElasticPolicy(Model):
    """Training that goes on with fewer nodes when some find no place, and with more when there is room again."""

    min_nodes: Annotated[int, Field(ge=1)] = 1
    """The fewest nodes to train with."""
    max_nodes: Annotated[int, Field(ge=1)] | None = None
    """The most nodes to train with; numNodes if missing."""
    shrink_after_seconds: Annotated[int, Field(ge=0)] = 120
    """How long a node without a place is waited for."""


FailureReason = Literal[
    "Checkpointed",
    "Error",
    "Evicted",
    "ImagePullFailed",
    "NodeLost",
    "OOMKilled",
    "PodDeleted",
    "Preempted",
    "Signal",
    "Stalled",
    "StartError",
    "StartupDeadlineExceeded",
    "Unschedulable",
]
"""What `status.lastFailure.reason` can say."""


class OnExitCodes(Model):
    """A condition on the exit code of the rank that failed first."""

    operator: Literal["In", "NotIn"]
    """Whether the code is, or is not, one of the values."""
    values: Annotated[list[Annotated[int, Field(ge=1, le=255)]], Field(min_length=1, max_length=255)]
    """Exit codes, 1 to 255."""


class FailureRule(
    Model,
    json_schema_extra=cel(
        Rule(
            "has(self.onExitCodes) || (has(self.onReasons) && self.onReasons.size() > 0)",
            "write onExitCodes or onReasons; a rule without a condition would match every failure",
        )
    ),
):
    """What to do about a kind of failure."""

    name: Annotated[str, Matches(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", "must be lower-case letters, digits and '-'", 63)]
    """The rule's name, shown in status and events."""
    on_exit_codes: OnExitCodes | None = None
    """Matches by exit code."""
    on_reasons: Annotated[list[FailureReason], Field(max_length=32)] = []
    """Matches by reason, as in status.lastFailure.reason."""
    action: Literal["Restart", "RestartAndIgnoreMaxRestarts", "Fail"]
    """What happens: restart all nodes, do so without counting it, or fail."""


class OnOOM(
    Model,
    json_schema_extra=cel(
        Rule(
            "self.memoryFactor <= 1.0 || has(self.memoryMax)", "write memoryMax: the most memory that may be asked for"
        )
    ),
):
    """More memory for the next attempt when it ran out; needs a memory limit. Such restarts are not counted."""

    memory_factor: Annotated[float, Field(ge=1, le=16)] = 1.0
    """The memory limit of the next attempt, as a multiple of the last; 1 is off."""
    memory_max: Quantity | None = None
    """The most memory to ask for; when that is not enough, the usual rules decide."""


class FailurePolicy(Model):
    """Which failures are tried again, and how often."""

    max_restarts: Annotated[int, Field(ge=0)] = 3
    """Restarts after failures of the application; those of the infrastructure are not counted."""
    max_no_progress_restarts: Annotated[int, Field(ge=0)] = 3
    """Restarts in a row without a newer step, after which the training fails."""
    backoff_seconds: Annotated[int, Field(ge=0, le=300)] = 10
    """The pause before a restart: doubled each time, at most 300, reset by progress."""
    rules: Annotated[list[FailureRule], ListMap(("name",), 32)] = []
    """Looked at in their order, before the default rules; the first that matches decides."""
    preset: Literal["", "ExitCode"] = ""
    """ExitCode: codes 1 to 127 fail and 128 to 255 restart, as in Kubeflow's PyTorchJob. rules come before it."""
    on_oom: OnOOM | None = Field(None, alias="onOOM")
    """More memory for the next attempt when it ran out."""


class RunPolicy(Model):
    """How long things may take, and what remains afterwards."""

    active_deadline_seconds: Annotated[int, Field(ge=1)] | None = None
    """How long the training may take in all; null is no limit."""
    startup_deadline_seconds: Annotated[int, Field(ge=1)] = 1800
    """How long it may take until all nodes run, and from there to the first step; time queued is not counted."""
    progress_deadline_seconds: Annotated[int, Field(ge=1)] | None = 900
    """How long it may take from one reported step to the next before the attempt counts as stalled; null is off."""
    node_lost_seconds: Annotated[int, Field(ge=1)] = 40
    """How long a node may be away before its pod is deleted by force and all nodes are restarted."""
    termination_grace_period_seconds: Annotated[int, Field(ge=0)] = 120
    """How long pods have to save a checkpoint when they are told to end."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0)] | None = None
    """Delete this ModelTraining so long after it finished; null keeps it."""
    clean_pod_policy: Literal["All", "Running", "None"] = "Running"
    """Which pods are deleted when the training has finished."""
