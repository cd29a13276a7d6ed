"""What the operator makes of other people's kinds is what their published schemas know, whatever a spec asks for."""

from __future__ import annotations

from typing import Any

import pytest
from contract.foreign_schemas import mistakes
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_operator.plan import Object
from modelyard_operator.schema import InvalidSpec
from modelyard_operator.service.autoscalers import make_autoscaler
from modelyard_operator.service.routing import make_http_route, make_ingress
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.spec import ModelServiceSpec, parse

INSTALLATION = Installation(
    workloads_image="workloads:1", router_image="operator:1", prometheus_url="http://prometheus:9090"
)
TEXTS = st.one_of(
    st.sampled_from(["public", "a.example", "*.a.example", "gateways", "https", ""]),
    st.text("aZ0-.*/:_", max_size=8),
    st.text(max_size=70),
)
TARGETS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.floats(0.001, 1000), st.integers(-1, 10**12))
SCALINGS = st.fixed_dictionaries(
    {
        "backend": st.sampled_from(["HPA", "KEDA"]),
        "metric": st.sampled_from(["cpu", "rps", "tokens", "concurrency"]),
        "minReplicas": st.integers(-1, 4),
        "maxReplicas": st.integers(-1, 2000),
        "target": TARGETS,
        "scaleDownDelaySeconds": st.integers(-1, 4000),
    }
)
ROUTES = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["HTTPRoute", "Ingress"]),
        "hostname": TEXTS,
        "gatewayRef": st.fixed_dictionaries({"name": TEXTS}, optional={"sectionName": TEXTS}),
    }
)


def service(**spec: Any) -> tuple[Object, ModelServiceSpec]:
    """Raises InvalidSpec."""
    meta = {"name": "demo", "namespace": "ns", "uid": "uid-demo"}
    asked = {"model": {"source": {"uri": "pvc://claim/m"}}, **spec}
    body = {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelService", "metadata": meta, "spec": asked}
    return body, parse(body)


@settings(max_examples=300, deadline=None)
@given(SCALINGS)
def test_autoscalers_are_made_as_their_schemas_have_them_or_refused(scaling: dict[str, Any]) -> None:
    try:
        body, spec = service(scaling=scaling)
    except InvalidSpec:
        return
    assert spec.scaling is not None
    made = make_autoscaler(body, spec, INSTALLATION)
    assert made is not None
    assert mistakes(made) == []


@settings(max_examples=300, deadline=None)
@given(ROUTES)
def test_ways_in_are_made_as_their_schemas_have_them_or_refused(route: dict[str, Any]) -> None:
    try:
        body, spec = service(route=route)
    except InvalidSpec:
        return
    assert mistakes((make_http_route if spec.route.mode == "HTTPRoute" else make_ingress)(body, spec)) == []


@pytest.mark.parametrize("backend", ["HPA", "KEDA"])
def test_fewer_servers_must_have_sufficed_as_long_as_the_spec_says(backend: str) -> None:
    scaling = {"backend": backend, "metric": "cpu", "target": 70, "maxReplicas": 3, "scaleDownDelaySeconds": 40}
    body, spec = service(scaling=scaling)
    assert spec.scaling is not None
    made = make_autoscaler(body, spec, INSTALLATION)
    assert made is not None
    behavior = made["spec"].get("behavior") or made["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior == {"scaleDown": {"stabilizationWindowSeconds": 40}}


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({"mode": "Ingress", "hostname": "https://A.example"}, "spec.route.hostname: write a host name such as"),
        ({"mode": "HTTPRoute", "gatewayRef": {"name": ""}}, "spec.route.gatewayRef.name: write the name of a Gateway"),
    ],
)
def test_names_that_no_way_in_can_have_are_refused(route: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        service(route=route)


def test_what_the_schemas_do_not_know_is_found() -> None:
    body, spec = service(scaling={"backend": "KEDA", "metric": "rps", "maxReplicas": 2})
    assert spec.scaling is not None
    made = make_autoscaler(body, spec, INSTALLATION)
    assert made is not None
    made["spec"]["triggers"][0]["metadata"]["threshold"] = 3
    made["spec"]["cooldown"] = 3
    assert [told.split(":")[0] for told in mistakes(made)] == ["spec.triggers.0.metadata.threshold", "spec."]
