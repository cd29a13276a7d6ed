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

SOURCE_SCHEMES = ("pvc", "s3", "gs", "https", "hf", "oci")
RESERVED_ENV_PREFIXES = ("MODELYARD_",)
MAX_REQUEST_BYTES = 16 * 1024**3


def check(spec: ModelServiceSpec) -> Iterator[Issue]:
    """Every issue that no single field shows."""
    source, path = spec.model.source, "spec.model.source"
    if (source.training_ref is not None) == bool(source.uri):
        yield Issue(path, "write exactly one of trainingRef and uri")
    if spec.scaling is not None:
        yield from scaling_issues(spec.scaling)
    yield from traffic_issues(spec.auth, spec.route, spec.rollout)
    yield from _predictor_issues(spec)
    largest = quantity.amount(spec.limits.max_request_bytes)
    if not 1 <= largest <= MAX_REQUEST_BYTES or largest % 1:
        message = f"expected a whole number of bytes from 1 to 16Gi, got {spec.limits.max_request_bytes}"
        yield Issue("spec.limits.maxRequestBytes", message)


def _predictor_issues(spec: ModelServiceSpec) -> Iterator[Issue]:
    predictor, path = spec.predictor, "spec.predictor"
    yield from env_issues(predictor.env, f"{path}.env")
    for index, variable in enumerate(predictor.env):
        if variable.name.startswith(RESERVED_ENV_PREFIXES):
            yield Issue(f"{path}.env[{index}].name", f"{variable.name} is set by the operator; remove it")
    yield from resource_issues(predictor.resources, f"{path}.resources")
    yield from pod_issues(predictor, path)
