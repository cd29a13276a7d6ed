"""What must hold between the fields of a ModelService: the operator's own check of the CRD's CEL rules, and more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from modelyard_operator import quantity
from modelyard_operator.pod_checks import env_issues, pod_issues, resource_issues
from modelyard_operator.schema import Issue
from modelyard_operator.service.scaling_spec import scaling_issues
from modelyard_operator.service.traffic_spec import traffic_issues

if TYPE_CHECKING:
    from modelyard_operator.service.spec import ModelServiceSpec

BUILTIN = "builtin"
"""The runtime that is the bundled server."""
LANGUAGE_TASKS = ("causal-lm",)
"""Tasks whose servers generate, and speak the OpenAI protocol."""
SOURCE_SCHEMES = ("pvc", "s3", "gs", "https", "hf", "oci")
RESERVED_ENV_PREFIXES = ("MODELYARD_",)
MAX_REQUEST_BYTES = 16 * 1024**3
_ROUTER_LIMITS = ("maxQueue", "timeoutSeconds")
"""Those that a router keeps for a server of others."""


def check(spec: ModelServiceSpec) -> Iterator[Issue]:
    """Every issue that no single field shows."""
    source, path = spec.model.source, "spec.model.source"
    if (source.training_ref is not None) == bool(source.uri):
        yield Issue(path, "write exactly one of trainingRef and uri")
    if spec.scaling is not None:
        yield from scaling_issues(spec.scaling)
    yield from traffic_issues(spec.auth, spec.route, spec.rollout)
    yield from _predictor_issues(spec)
    if spec.runtime != BUILTIN:
        yield from _foreign_runtime_issues(spec)
    largest = quantity.amount(spec.limits.max_request_bytes)
    if not 1 <= largest <= MAX_REQUEST_BYTES or largest % 1:
        message = f"expected a whole number of bytes from 1 to 16Gi, got {spec.limits.max_request_bytes}"
        yield Issue("spec.limits.maxRequestBytes", message)


def unused_settings(spec: ModelServiceSpec, task: str) -> list[str]:
    """Settings of the bundled server that say nothing to a model of this task, which is known only when it is found."""
    generates = task in LANGUAGE_TASKS
    unused = []
    if spec.generation is not None and not generates:
        unused.append(f"generation is not used: {task} generates nothing")
    if spec.batching.asked_for() and generates:
        unused.append(f"batching is not used: {task} is batched as generation.maxNumSeqs says")
    return unused


def _foreign_runtime_issues(spec: ModelServiceSpec) -> Iterator[Issue]:
    """What the bundled server alone does, and a user would believe to be done: above all, ask for keys."""
    told = f"the bundled server alone does this, and the runtime is {spec.runtime!r};"
    own = "remove it, and say it in predictor.args in that server's own words"
    if spec.auth.mode == "ApiKey":
        message = f"{told} anybody could ask it. Write None, and have that server or a gateway ask for keys"
        yield Issue("spec.auth.mode", message)
    if spec.batching.asked_for():
        yield Issue("spec.batching", f"{told} {own}")
    if spec.generation is not None:
        yield Issue("spec.generation", f"{told} {own}")
    if spec.explain is not None and spec.explain.enabled:
        yield Issue("spec.explain.enabled", f"{told} write false, or runtime: {BUILTIN}")
    if spec.validation.golden == "Required":
        message = f"{told} write IfPresent, with which it serves without them, or runtime: {BUILTIN}"
        yield Issue("spec.validation.golden", message)
    for name in spec.limits.asked_for():
        if name not in _ROUTER_LIMITS:
            yield Issue(f"spec.limits.{name}", f"{told} {own}")


def _predictor_issues(spec: ModelServiceSpec) -> Iterator[Issue]:
    predictor, path = spec.predictor, "spec.predictor"
    yield from env_issues(predictor.env, f"{path}.env")
    for index, variable in enumerate(predictor.env):
        if variable.name.startswith(RESERVED_ENV_PREFIXES):
            yield Issue(f"{path}.env[{index}].name", f"{variable.name} is set by the operator; remove it")
    yield from resource_issues(predictor.resources, f"{path}.resources")
    yield from pod_issues(predictor, path)
