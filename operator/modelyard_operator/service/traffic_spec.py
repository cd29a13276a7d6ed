"""The parts of a ModelService's spec that are about requests: rollout, limits, drain, auth, route."""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.schema import Model, NotYet, Quantity, Supported


class RolloutStep(Model):
    """A share of the requests, and how long it stays so."""

    percent: Annotated[int, Field(ge=1, le=100)]
    """The new revision's share."""
    pause_seconds: Annotated[int, Field(ge=0)] = 60
    """How long until the next step."""


class Analysis(Model):
    """What the new revision must keep to."""

    min_requests: Annotated[int, Field(ge=1)] = 50
    """Requests before a verdict."""
    max_error_rate_delta: Annotated[float, Field(ge=0, le=1)] = 0.01
    """How much higher its error rate may be."""
    max_p99_ratio: Annotated[float, Field(gt=0)] = 1.5
    """How many times as slow its slowest hundredth may be."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """How often it must answer like the old one."""


class Rollout(Model):
    """How one revision replaces another."""

    strategy: Annotated[Literal["RollingUpdate", "Canary", "Shadow"], Supported(("RollingUpdate",))] = "RollingUpdate"
    """RollingUpdate: the old revision serves until the new one is ready. Not supported yet: Canary, Shadow."""
    steps: Annotated[list[RolloutStep], Field(max_length=32), NotYet()] = []
    """The shares of a canary, one after the other."""
    analysis: Annotated[Analysis | None, NotYet()] = None
    """What a canary must keep to."""
    on_failure: Annotated[Literal["Rollback"], NotYet()] = "Rollback"
    """What happens to a canary that doesn't."""


class Limits(Model):
    """What the server refuses instead of breaking down."""

    max_queue: Annotated[int, Field(ge=0)] = 1000
    """Requests that wait; more are refused with 503."""
    timeout_seconds: Annotated[float, Field(gt=0, le=86400)] = 60
    """How long a request may take; then 504."""
    max_request_bytes: Quantity = "64Mi"
    """The largest request; more is refused with 413."""
    container_concurrency: Annotated[int, Field(ge=0)] = 0
    """Requests worked on at once by a pod; 0 is no limit."""


class Drain(Model):
    """How a pod ends without losing a request."""

    pre_stop_seconds: Annotated[int, Field(ge=0, le=600)] = 5
    """How long it goes on taking requests after it was told to end, while load balancers forget it."""
    timeout_seconds: Annotated[int, Field(ge=0, le=86400)] = 45
    """How long it may take to answer what it has taken."""


class Auth(Model):
    """Who may send requests."""

    mode: Annotated[Literal["None", "ApiKey"], Supported(("None",))] = "None"
    """None: everybody who reaches the service. Not supported yet: ApiKey."""
    secret_ref: Annotated[str, NotYet()] = ""
    """The Secret with the keys."""


class GatewayRef(Model):
    """A Gateway in the same namespace."""

    name: str
    """Its name."""
    section_name: str = ""
    """Its listener; all if empty."""


class Route(Model):
    """How requests come in."""

    mode: Annotated[Literal["Auto", "HTTPRoute", "Ingress"], Supported(("Auto",))] = "Auto"
    """Auto: a Service in the cluster. Not supported yet: HTTPRoute, Ingress."""
    hostname: Annotated[str, NotYet()] = ""
    """The host name outside the cluster."""
    gateway_ref: Annotated[GatewayRef | None, NotYet()] = None
    """The Gateway to attach to."""
