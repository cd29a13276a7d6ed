"""Which server programs there are: the bundled one, and the profiles that the operator's configuration names. Pure."""

# ruff: noqa: RUF012 - pydantic copies the defaults of its models

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, ValidationError

from modelyard_operator.issues import validation_issues
from modelyard_operator.schema import InvalidSpec, Issue, Model
from modelyard_operator.service.checks import BUILTIN
from modelyard_operator.service.spec import ModelServiceSpec

_BUILTIN_SERIES = {
    "concurrency": ["modelyard_requests_in_flight"],
    "rps": ["modelyard_requests_total"],
    "tokens": ["vllm:prompt_tokens_total", "vllm:generation_tokens_total"],
}
_EXPOSITION = "/metrics"
HTTP_PORT = 8080
GRPC_PORT = 8081
"""Of servers, routers and Services alike: clients of KServe's know it."""
LOAD_PATH = "/v2/health/load"
STARTUP_SECONDS = 600
"""How long a bundled server may take to load its model before the kubelet starts it anew."""


class LoadMetrics(Model):
    """Where a server says how much it has to do, and by which names of Prometheus metrics. Sums over all labels.

    Without a name, what is at `path` is JSON like the bundled server's: see `readings.read_counters`.
    """

    path: str = _EXPOSITION
    """The path of the exposition; empty where there is none."""
    in_flight: list[str] = []
    """Gauges that add up to the requests in work and waiting."""
    requests: list[str] = []
    """Counters that add up to the requests."""
    tokens: list[str] = []
    """Counters that add up to the tokens read and written."""

    @property
    def names(self) -> list[str]:
        return [*self.in_flight, *self.requests, *self.tokens]


class RuntimeProfile(Model):
    """A server program. `$(MODELYARD_MODEL_PATH)`, `$(MODELYARD_MODEL_NAME)` and `$(MODELYARD_PORT)` in args are
    filled in by the kubelet."""

    image: str = ""
    """Its image; if empty, predictor.image is required."""
    command: list[str] = []
    args: list[str] = []
    env: dict[str, str] = {}
    port: Annotated[int, Field(ge=1, le=65535)] = HTTP_PORT
    """Where it speaks HTTP."""
    grpc_port: Annotated[int, Field(ge=1, le=65535)] | None = None
    """Where it speaks gRPC; null where it does not."""
    ready_path: str = ""
    """Answers 200 when the model is loaded; the port is tried if empty."""
    live_path: str = ""
    """Answers 200 while the process is well; the port is tried if empty."""
    startup_seconds: Annotated[int, Field(ge=1)] = 1800
    read_only_root: bool = False
    """Whether the image runs with a root file system that nobody writes."""
    metrics: LoadMetrics = LoadMetrics()
    """What internal scaling reads."""


@dataclass(frozen=True, kw_only=True)
class Installation:
    """What one installation of the operator gives to its services."""

    workloads_image: str
    router_image: str = "localhost/modelyard/operator:dev"
    router_replicas: int = 1
    prometheus_url: str = ""
    """Where KEDA asks for requests and tokens; empty where there is none."""
    runtimes: Mapping[str, RuntimeProfile] = field(default_factory=dict)

    def builtin(self) -> RuntimeProfile:
        """The bundled server."""
        return RuntimeProfile(
            image=self.workloads_image,
            command=["python", "-m", "modelyard_workloads.serve"],
            grpc_port=GRPC_PORT,
            ready_path="/v2/health/ready",
            live_path="/v2/health/live",
            startup_seconds=STARTUP_SECONDS,
            read_only_root=True,
            metrics=LoadMetrics(path=LOAD_PATH),
        )

    def check(self, spec: ModelServiceSpec) -> None:
        """Raises InvalidSpec where this installation has not what a service needs, with what to do."""
        self.profile(spec)
        scaling = spec.scaling
        if scaling is None or scaling.metric == "cpu":
            return
        if scaling.backend == "KEDA" and not self.prometheus_url:
            message = (
                f"KEDA reads {scaling.metric} from a Prometheus, and the operator knows none; set prometheusUrl of the "
                "chart, or write Internal"
            )
            raise InvalidSpec([Issue("spec.scaling.backend", message)])
        if scaling.backend == "KEDA":
            self._check_series(spec, scaling.metric)
        elif scaling.max_replicas > max(1, scaling.min_replicas):
            self._check_load(spec, scaling.metric)

    def series(self, spec: ModelServiceSpec, metric: str) -> list[str]:
        """The Prometheus series of a service's servers that add up to a metric; empty where its profile names none."""
        if spec.runtime == BUILTIN:
            return _BUILTIN_SERIES.get(metric, [])
        told = self.profile(spec).metrics
        return {"concurrency": told.in_flight, "rps": told.requests, "tokens": told.tokens}.get(metric, [])

    def _check_load(self, spec: ModelServiceSpec, metric: str) -> None:
        """Of a server of which nothing can be read there would be as many as there are, or as few as there may be."""
        told = self.profile(spec).metrics
        tells_as_ours = told.path not in ("", _EXPOSITION) and not told.names
        if not tells_as_ours:
            self._check_series(spec, metric)

    def _check_series(self, spec: ModelServiceSpec, metric: str) -> None:
        if self.series(spec, metric):
            return
        field = {"concurrency": "inFlight", "rps": "requests", "tokens": "tokens"}[metric]
        message = (
            f"the runtime profile {spec.runtime!r} names no series for {metric}; write them as its metrics.{field}, or "
            "take a metric that it has"
        )
        raise InvalidSpec([Issue("spec.scaling.metric", message)])

    def profile(self, spec: ModelServiceSpec) -> RuntimeProfile:
        """The profile of a service. Raises InvalidSpec with what there is instead."""
        if spec.runtime == BUILTIN:
            return self.builtin()
        known = ", ".join(sorted({BUILTIN, *self.runtimes}))
        if spec.runtime not in self.runtimes:
            message = f"no runtime profile is named {spec.runtime!r} in the operator's configuration; known are {known}"
            raise InvalidSpec([Issue("spec.runtime", message)])
        found = self.runtimes[spec.runtime]
        if not found.image and not spec.predictor.image:
            message = f"the runtime profile {spec.runtime!r} has no image of its own; write one"
            raise InvalidSpec([Issue("spec.predictor.image", message)])
        return found


def parse_profiles(value: Any) -> dict[str, RuntimeProfile]:
    """The profiles of a configuration file: a map from name to profile. Raises InvalidSpec with all issues."""
    if not isinstance(value, Mapping):
        raise InvalidSpec([Issue("runtimes", "expected a map from names to profiles")])
    profiles: dict[str, RuntimeProfile] = {}
    issues: list[Issue] = []
    for name, body in value.items():
        try:
            profiles[str(name)] = RuntimeProfile.model_validate(body, by_alias=True, by_name=False)
        except ValidationError as error:
            issues += validation_issues(error, RuntimeProfile, f"runtimes.{name}")
    if BUILTIN in profiles:
        issues.append(Issue(f"runtimes.{BUILTIN}", "the bundled server cannot be replaced; write another name"))
    if issues:
        raise InvalidSpec(issues)
    return profiles
