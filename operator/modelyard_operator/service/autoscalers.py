"""Scaling by others: a HorizontalPodAutoscaler or a ScaledObject of KEDA, both on this service's `/scale`. Pure."""

from __future__ import annotations

from modelyard_operator.objects import SERVICE, child_metadata
from modelyard_operator.plan import Object
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.scaling_spec import Scaling
from modelyard_operator.service.spec import ModelServiceSpec

_SUMS = {
    "concurrency": "sum({name}{{{pods}}})",
    "rps": "sum(rate({name}{{{pods}}}[1m]))",
    "tokens": "sum(rate({name}{{{pods}}}[1m]))",
}
_REVISION_LENGTH = 10
_POD_BASE_LENGTH = 58
"""What is left of a pod's name before its five random characters, as the API server cuts it.

https://github.com/kubernetes/apiserver/blob/master/pkg/storage/names/generate.go
"""


def make_autoscaler(service: Object, spec: ModelServiceSpec, installation: Installation) -> Object | None:
    """The object of the backend; None where the operator scales by itself."""
    scaling = spec.scaling
    if scaling is not None and scaling.backend == "HPA":
        return _horizontal(service, scaling)
    if scaling is not None and scaling.backend == "KEDA":
        return _scaled_object(service, scaling, installation.prometheus_url, installation.series(spec, scaling.metric))
    return None


def _target(service: Object) -> Object:
    return {"apiVersion": service["apiVersion"], "kind": SERVICE, "name": service["metadata"]["name"]}


def _horizontal(service: Object, scaling: Scaling) -> Object:
    """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/"""
    utilization = {"type": "Utilization", "averageUtilization": _percent(scaling)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": child_metadata(service, service["metadata"]["name"]),
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
            "behavior": _behavior(scaling),
        },
    }


def _scaled_object(service: Object, scaling: Scaling, prometheus_url: str, series: list[str]) -> Object:
    """https://keda.sh/docs/latest/reference/scaledobject-spec/"""
    meta = service["metadata"]
    if scaling.metric == "cpu":
        trigger: Object = {
            "type": "cpu",
            "metricType": "Utilization",
            "metadata": {"value": str(_percent(scaling))},
        }
    else:
        pods = f'namespace="{meta["namespace"]}",pod=~"{pod_pattern(meta["name"])}"'
        query = _sum([_SUMS[scaling.metric].format(name=name, pods=pods) for name in series])
        told = {"serverAddress": prometheus_url, "query": query, "threshold": f"{scaling.target:g}"}
        trigger = {"type": "prometheus", "metricType": "AverageValue", "metadata": told}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": child_metadata(service, service["metadata"]["name"]),
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            # cooldownPeriod is only about the way to zero, which KEDA never goes here
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(scaling)}},
            "triggers": [trigger],
        },
    }


def _sum(terms: list[str]) -> str:
    """Of several series, of which each may be missing for a while: nothing and something is something."""
    return terms[0] if len(terms) == 1 else " + ".join(f"({term} or vector(0))" for term in terms)


def _behavior(scaling: Scaling) -> Object:
    return {"scaleDown": {"stabilizationWindowSeconds": scaling.scale_down_delay_seconds}}


def _percent(scaling: Scaling) -> int:
    """Whole percent, and never 0, which both refuse."""
    return max(1, round(scaling.target))


def pod_pattern(service: str) -> str:
    """A regular expression for the names of this service's servers and of no other pods: not those of `SERVICE-large`,
    nor its routers. Prometheus matches whole values. A pod is SERVICE-REVISION-TEMPLATE-RANDOM, cut where the service's
    name is long."""
    digits = min(_REVISION_LENGTH, _POD_BASE_LENGTH - len(service) - 1)
    return f"{service}-[0-9a-f]{{{digits}}}-?[a-z0-9]*-?[a-z0-9]{{5}}"
