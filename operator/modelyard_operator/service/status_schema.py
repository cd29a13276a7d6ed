"""The status of a ModelService, as its CRD describes it. The operator writes dicts, not these."""
# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modelyard_operator.schema import ListMap, Model
from modelyard_operator.status_schema import Conditions


class ResolvedModel(Model):
    """The model that is served, as the source resolved to it."""

    source: str | None = None
    """The training or the URI that the spec names."""
    artifact: str | None = None
    """The training's artifact."""
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


class TrafficShare(Model):
    """A revision's share of the requests."""

    revision_name: str
    """The revision."""
    percent: Annotated[int, Field(ge=0, le=100)]
    """Its share."""


class Canary(Model):
    """What is known of a new revision under test."""

    step: int | None = None
    """The step of the rollout."""
    requests: int | None = None
    """Requests it had."""
    error_rate: float | None = None
    """The share that failed."""
    p99_milliseconds: float | None = None
    """Its slowest hundredth."""
    baseline_p99_milliseconds: float | None = None
    """The old revision's slowest hundredth."""
    agreement: float | None = None
    """The share of requests that both answer alike."""
    verdict: str | None = None
    """What follows from it."""


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
    """What is known of a new revision under test."""
    last_failure: ServerFailure | None = None
    """The last server that failed."""
    display: ServiceDisplay | None = None
    """Words for the columns of `kubectl get`, made from the other fields; programs read those."""
