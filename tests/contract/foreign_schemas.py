"""Objects of other people's APIs: the fields that we write, as their published schemas have them, and no others.

HorizontalPodAutoscaler: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/
ScaledObject: https://github.com/kedacore/keda/blob/main/config/crd/bases/keda.sh_scaledobjects.yaml
HTTPRoute: https://github.com/kubernetes-sigs/gateway-api/blob/main/config/crd/standard/gateway.networking.k8s.io_httproutes.yaml
Ingress: https://kubernetes.io/docs/reference/kubernetes-api/service-resources/ingress-v1/
"""

from __future__ import annotations

from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_HOST = rf"{_LABEL}(\.{_LABEL})*"


def _object(required: str, optional: str = "", **fields: Schema) -> Schema:
    assert fields.keys() == {*required.split(), *optional.split()}
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def _integer(low: int, high: int = 2**31 - 1) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _text(pattern: str = ".+", longest: int = 253) -> Schema:
    return {"type": "string", "pattern": rf"^({pattern})\Z", "maxLength": longest}


def _list(items: Schema, longest: int) -> Schema:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": longest}


_BEHAVIOR = _object(
    "scaleDown", scaleDown=_object("stabilizationWindowSeconds", stabilizationWindowSeconds=_integer(0, 3600))
)
_TARGET = _object("apiVersion kind name", apiVersion=_text(), kind=_text(), name=_text(_HOST))
_UTILIZATION = _object("type averageUtilization", type={"const": "Utilization"}, averageUtilization=_integer(1))
_CPU = _object(
    "type resource",
    type={"const": "Resource"},
    resource=_object("name target", name={"const": "cpu"}, target=_UTILIZATION),
)
_TRIGGER = _object(
    "type metricType metadata",
    type={"enum": ["cpu", "prometheus"]},
    metricType={"enum": ["AverageValue", "Value", "Utilization"]},
    # each a string, also where it is a number
    metadata={"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
)
# a Service of the same namespace where nothing else is said; it needs the port
_BACKEND = _object("name port", name=_text(), port=_integer(1, 65535))
_SPECS: dict[tuple[str, str], Schema] = {
    ("autoscaling/v2", "HorizontalPodAutoscaler"): _object(
        "scaleTargetRef minReplicas maxReplicas metrics behavior",
        scaleTargetRef=_TARGET,
        minReplicas=_integer(1),  # 0 only behind a feature gate
        maxReplicas=_integer(1),
        metrics=_list(_CPU, 1),
        behavior=_BEHAVIOR,
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): _object(
        "scaleTargetRef minReplicaCount maxReplicaCount advanced triggers",
        scaleTargetRef=_TARGET,
        minReplicaCount=_integer(0),
        maxReplicaCount=_integer(1),
        advanced=_object(
            "horizontalPodAutoscalerConfig", horizontalPodAutoscalerConfig=_object("behavior", behavior=_BEHAVIOR)
        ),
        triggers=_list(_TRIGGER, 1),
    ),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): _object(
        "parentRefs rules",
        "hostnames",
        parentRefs=_list(_object("name", "sectionName", name=_text(), sectionName=_text(_HOST)), 32),
        hostnames=_list(_text(rf"(\*\.)?{_HOST}"), 16),
        rules=_list(_object("backendRefs", backendRefs=_list(_BACKEND, 16)), 16),
    ),
    ("networking.k8s.io/v1", "Ingress"): _object(
        "rules",
        rules=_list(
            _object(
                "host http",
                host=_text(rf"(\*\.)?{_HOST}"),
                http=_object("paths", paths=_list(
                    _object(
                        "path pathType backend",
                        path=_text("/.*"),
                        pathType={"enum": ["Exact", "Prefix", "ImplementationSpecific"]},
                        backend=_object("service", service=_object(
                            "name port", name=_text(_LABEL, 63), port=_object("name", name=_text(_LABEL, 15)),
                        )),
                    ),
                    1,
                )),
            ),
            1,
        ),
    ),
}  # fmt: skip


def mistakes(body: Schema) -> list[str]:
    """What of an object its API would refuse, or silently leave out."""
    found = Draft202012Validator(_SPECS[body["apiVersion"], body["kind"]]).iter_errors(body["spec"])
    told = [f"spec.{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in found]
    if body["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
        low, high = (
            body["spec"].get(f"{end}Replicas", body["spec"].get(f"{end}ReplicaCount")) for end in ("min", "max")
        )
        told += [f"spec: from {low} to {high} servers"] if low > high else []
    return told
