"""What a training's launcher, or a Hugging Face Trainer, posts; and what is kept of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

from modelyard_operator.plan import Report

MAX_METRICS = 64

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Whole = Annotated[int, BeforeValidator(lambda v: round(v) if isinstance(v, float) else v)]


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="ignore")


class _Metric(_Part):
    name: Annotated[str, Field(max_length=128)]
    value: Annotated[str, Field(max_length=128)]


class _TrainerStatus(_Part):
    progress_percentage: Annotated[_Whole, Field(ge=0, le=100)] | None = None
    estimated_remaining_seconds: Annotated[_Whole, Field(ge=0)] | None = None
    metrics: Annotated[list[_Metric], Field(max_length=MAX_METRICS)] = []


class _Progress(_Part):
    step: Annotated[int, Field(ge=0)] | None = None
    total_steps: Annotated[int, Field(ge=0)] | None = None
    epoch: float | None = None
    samples_per_second: float | None = None
    step_seconds: _Seconds | None = None
    tick: Annotated[int, Field(ge=0)] | None = None
    phase: Annotated[str, Field(max_length=32)] | None = None


class _Stacks(_Part):
    uri: Annotated[str, Field(max_length=1024)] = ""
    path: Annotated[str, Field(max_length=1024)] = ""
    digest: Annotated[str, Field(max_length=4096)] = ""


class _Timing(_Part):
    startup: _Seconds = 0.0
    productive: _Seconds = 0.0
    replayed: _Seconds = 0.0
    checkpoint: _Seconds = 0.0
    evaluation: _Seconds = 0.0
    data_wait: _Seconds = 0.0


class _Checkpoint(_Part):
    step: Annotated[int, Field(ge=0)]
    uri: Annotated[str, Field(max_length=1024)]
    time: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")]
    size_bytes: Annotated[int, Field(ge=0)]
    save_seconds: _Seconds | None = None


class Posted(_Part):
    """One report as it is posted."""

    trainer_status: _TrainerStatus
    progress: _Progress = _Progress()
    checkpoint: _Checkpoint | None = None
    timing: _Timing | None = None
    stacks: _Stacks | None = None


def taken(before: Report | None, attempt: int, posted: Posted, now: datetime) -> Report:
    """The report to keep. What an attempt said once (a checkpoint, its timing) holds until it says it anew."""
    status = posted.trainer_status.model_dump(by_alias=True, exclude_none=True)
    progress = posted.progress.model_dump(by_alias=True, exclude_none=True)
    if before is not None and before.attempt != attempt:
        before = None
    moved = before is None or _mark(progress, status) != _mark(before.progress, before.trainer_status)
    checkpoint = posted.checkpoint.model_dump(by_alias=True, exclude_none=True) if posted.checkpoint else None
    timing = posted.timing.model_dump(by_alias=True, exclude_none=True) if posted.timing else {}
    return Report(
        attempt=attempt,
        received=now,
        advanced=now if moved or before is None else before.advanced,
        trainer_status=status,
        progress=progress,
        checkpoint=checkpoint or (before.checkpoint if before else None),
        timing=timing or (before.timing if before else {}),
        first_step=before.first_step if before and before.first_step is not None else progress.get("step"),
        first_received=before.first_received if before else now,
        stacks=posted.stacks.model_dump() if posted.stacks else None,
    )


def _mark(progress: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Any, ...]:
    """What shows movement: any difference in it is progress."""
    return (*(progress.get(name) for name in ("step", "tick", "phase")), status.get("progressPercentage"))
