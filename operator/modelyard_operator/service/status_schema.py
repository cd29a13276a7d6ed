"""The status of a ModelService, as its CRD describes it. The operator writes dicts, not these."""
# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modelyard_operator.schema import ListMap, Model, Time
from modelyard_operator.status_schema import Conditions, ResolvedModel


class TrafficShare(Model):
    """A revision's share of the requests."""

    revision_name: str
    """The revision."""
    percent: Annotated[int, Field(ge=0, le=100)]
    """Its share."""


class Canary(Model):
    """The last canary or shadow: what is known of the new revision, and what follows from it."""

    revision_name: str | None = None
    """The new revision."""
    step: int | None = None
    """The step of the rollout, from 0."""
    step_start_time: Time | None = None
    """When the step was decided."""
    requests: int | None = None
    """Requests that the new revision had in this step."""
    error_rate: float | None = None
    """The share that failed."""
    p99_milliseconds: float | None = None
    """Its slowest hundredth."""
    baseline_p99_milliseconds: float | None = None
    """The old revision's slowest hundredth."""
    agreement: float | None = None
    """The share of compared requests that both answer alike."""
    verdict: str | None = None
    """Progressing, Promoted or RolledBack."""
    message: str | None = None
    """Why, or what is waited for."""


class ScalingStatus(Model):
    """The number of servers by load, backend Internal."""

    desired: int | None = None
    """Servers that are wanted."""
    reason: str | None = None
    """Why, in one CamelCase word."""
    message: str | None = None
    """What was measured when it was decided."""
    last_scale_time: Time | None = None
    """When it was decided."""


class DownloadStatus(Model):
    """How far the slowest pod is in loading the model."""

    done_bytes: int | None = None
    """Bytes that are there."""
    total_bytes: int | None = None
    """Bytes of all files; absent while not known."""


class ServerFailure(Model):
    """The last server that failed."""

    pod_name: str | None = None
    """Its pod."""
    reason: str | None = None
    """What kind of failure, in one CamelCase word."""
    exit_code: int | None = None
    """Its exit code."""
    message: str | None = None
    """What it said."""
    log_tail: str | None = None
    """The last lines of its log."""


class ServiceDisplay(Model):
    """Words for the columns of `kubectl get`, made from the other fields; programs read those."""

    model: str | None = None
    """The model, as in digits/best."""
    ready: str | None = None
    """Ready and wanted pods, as in 2/2."""
    traffic: str | None = None
    """Shares of the revisions, as in 3f2a9c1b7e 100%."""


class ModelServiceStatus(Model):
    """What was observed."""

    observed_generation: int | None = None
    """The generation of the spec that this status is about."""
    phase: str | None = None
    """One word for people, made from the conditions."""
    conditions: Conditions = []
    """Accepted, ModelResolved, PredictorReady, ModelLoaded, Validated, RoutesReady, CanaryReady, ScalingReady,
    Reconciling, Stalled, Ready."""
    url: str | None = None
    """Where requests of the Open Inference Protocol go, inside the cluster."""
    grpc_url: str | None = None
    """The same protocol by gRPC."""
    openai_url: str | None = None
    """The OpenAI protocol, for language models."""
    replicas: int | None = None
    """Pods there are."""
    ready_replicas: int | None = None
    """Pods that answer."""
    selector: str | None = None
    """The pods' labels, for `kubectl scale` and autoscalers."""
    model: ResolvedModel | None = None
    """The model that is served, as the source resolved to it."""
    latest_created_revision: str | None = None
    """The newest revision."""
    latest_ready_revision: str | None = None
    """The newest revision that was ready."""
    traffic: Annotated[list[TrafficShare], ListMap(("revisionName",), 16)] = []
    """Each revision's share of the requests."""
    canary: Canary | None = None
    """The last canary or shadow."""
    scaling: ScalingStatus | None = None
    """The number of servers by load."""
    download: DownloadStatus | None = None
    """How far pods are in loading the model; absent when they have it."""
    last_failure: ServerFailure | None = None
    """The last server that failed."""
    display: ServiceDisplay | None = None
    """Words for the columns of `kubectl get`, made from the other fields; programs read those."""
