"""The parts of a ModelService's spec that are about requests: rollout, limits, drain, auth, route."""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from modelyard_operator.schema import Issue, Matches, Model, Quantity, Rule, cel, has_text


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


class Rollout(
    Model,
    json_schema_extra=cel(
        Rule(
            "self.?strategy.orValue('RollingUpdate') != 'RollingUpdate'"
            " || ((!has(self.steps) || self.steps.size() == 0) && !has(self.analysis))",
            "steps and analysis are for Canary and Shadow; write one of them as strategy, or remove them",
        )
    ),
):
    """How one revision replaces another."""

    strategy: Literal["RollingUpdate", "Canary", "Shadow"] = "RollingUpdate"
    """RollingUpdate: all requests go to the new revision when it is ready. Canary: first some of them, step by step.
    Shadow: first copies, whose answers are compared and never returned."""
    steps: Annotated[list[RolloutStep], Field(max_length=32)] = []
    """The shares of a canary, one after the other; if empty 10% and 50%, a minute each. Shadow: the first pause."""
    analysis: Analysis | None = None
    """What the new revision must keep to; if absent, the defaults of its fields."""
    on_failure: Literal["Rollback"] = "Rollback"
    """What happens to a revision that doesn't: all requests go to the old one."""


class Limits(Model):
    """What the server refuses instead of breaking down."""

    max_queue: Annotated[int, Field(ge=0)] = 1000
    """Requests that wait; more are refused with 503."""
    max_wait_seconds: Annotated[float, Field(gt=0, le=86400)] = 8
    """A request that would wait longer for the model is refused with 503, so that a server is quick again this long
    after a flood. Of a language model only the number of waiting requests is bounded."""
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


class Auth(
    Model,
    json_schema_extra=cel(
        Rule(
            f"self.?mode.orValue('') != 'ApiKey' || {has_text('self.secretRef')}",
            "mode ApiKey needs secretRef",
            ".secretRef",
        )
    ),
):
    """Who may send requests."""

    mode: Literal["None", "ApiKey"] = "None"
    """None: everybody who reaches the service. ApiKey: who sends a key as Authorization: Bearer, or as x-api-key."""
    secret_ref: Annotated[str, Field(max_length=253)] = ""
    """The Secret with the keys: each of its values is one."""


_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_HOST = rf"{_LABEL}(\.{_LABEL})*"
_HOSTNAME = Matches(rf"|(\*\.)?{_HOST}", "write a host name such as models.example.com: lower case, no scheme, no port")


class GatewayRef(Model):
    """A Gateway in the same namespace."""

    name: Annotated[str, Matches(_HOST, "write the name of a Gateway")]
    """Its name."""
    section_name: Annotated[str, Matches(rf"|{_HOST}", "write the name of a listener of the Gateway")] = ""
    """Its listener; all if empty."""


class Route(
    Model,
    json_schema_extra=cel(
        Rule(
            "self.?mode.orValue('') != 'HTTPRoute' || has(self.gatewayRef)",
            "mode HTTPRoute needs gatewayRef",
            ".gatewayRef",
        ),
        Rule(
            f"self.?mode.orValue('') != 'Ingress' || {has_text('self.hostname')}",
            "mode Ingress needs hostname",
            ".hostname",
        ),
        Rule(
            f"self.?mode.orValue('Auto') != 'Auto' || (!({has_text('self.hostname')}) && !has(self.gatewayRef))",
            "hostname and gatewayRef are for a way in from outside; write mode HTTPRoute or Ingress",
            ".mode",
        ),
    ),
):
    """How requests come in."""

    mode: Literal["Auto", "HTTPRoute", "Ingress"] = "Auto"
    """Auto: a Service in the cluster. HTTPRoute and Ingress: that, and a way in from outside."""
    hostname: Annotated[str, _HOSTNAME] = ""
    """The host name outside the cluster."""
    gateway_ref: GatewayRef | None = None
    """The Gateway to attach to, for HTTPRoute."""


def traffic_issues(auth: Auth, route: Route, rollout: Rollout) -> Iterator[Issue]:
    """The operator's own check of the CEL rules above, and of the order of steps."""
    if auth.mode == "ApiKey" and not auth.secret_ref:
        yield Issue("spec.auth.secretRef", "mode ApiKey needs it; write the name of a Secret whose values are keys")
    if route.mode == "HTTPRoute" and route.gateway_ref is None:
        yield Issue("spec.route.gatewayRef", "mode HTTPRoute needs it; write {name: GATEWAY}")
    if route.mode == "Ingress" and not route.hostname:
        yield Issue("spec.route.hostname", "mode Ingress needs it; write the host name under which the model is served")
    if route.mode == "Auto" and (route.hostname or route.gateway_ref is not None):
        message = "hostname and gatewayRef are for a way in from outside; write HTTPRoute or Ingress, or remove them"
        yield Issue("spec.route.mode", message)
    if route.mode == "Ingress" and route.gateway_ref is not None:
        yield Issue("spec.route.gatewayRef", "is for mode HTTPRoute; write that, or remove it")
    if rollout.strategy == "RollingUpdate" and (rollout.steps or rollout.analysis is not None):
        message = "steps and analysis are for Canary and Shadow; write one of them, or remove those"
        yield Issue("spec.rollout.strategy", message)
    percents = [step.percent for step in rollout.steps]
    if percents != sorted(percents):
        yield Issue("spec.rollout.steps", f"the shares must not fall, got {', '.join(map(str, percents))}")
