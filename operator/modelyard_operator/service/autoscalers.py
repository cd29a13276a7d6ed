"""Scaling by others: a HorizontalPodAutoscaler or a ScaledObject of KEDA, both on this service's `/scale`. Pure."""

from __future__ import annotations

from modelyard_operator.objects import SERVICE, labels_for, owner_reference
from modelyard_operator.plan import Object
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.scaling_spec import Scaling

_QUERIES = {
    "concurrency": 'sum({gauge}{{namespace="{namespace}",pod=~"{name}-.*"}})',
    "rps": 'sum(rate({counter}{{namespace="{namespace}",pod=~"{name}-.*"}}[1m]))',
    "tokens": 'sum(rate(vllm:generation_tokens_total{{namespace="{namespace}",pod=~"{name}-.*"}}[1m]))',
}


def make_autoscaler(service: Object, scaling: Scaling, installation: Installation) -> Object | None:
    """The object of the backend; None where the operator scales by itself."""
    if scaling.backend == "HPA":
        return _horizontal(service, scaling)
    if scaling.backend == "KEDA":
        return _scaled_object(service, scaling, installation)
    return None


def _target(service: Object) -> Object:
    return {"apiVersion": service["apiVersion"], "kind": SERVICE, "name": service["metadata"]["name"]}


def _horizontal(service: Object, scaling: Scaling) -> Object:
    """https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/horizontal-pod-autoscaler-v2/"""
    utilization = {"type": "Utilization", "averageUtilization": round(scaling.target)}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": _metadata(service),
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicas": scaling.min_replicas,
            "maxReplicas": scaling.max_replicas,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": scaling.scale_down_delay_seconds}},
        },
    }


def _scaled_object(service: Object, scaling: Scaling, installation: Installation) -> Object:
    """https://keda.sh/docs/latest/reference/scaledobject-spec/"""
    meta = service["metadata"]
    if scaling.metric == "cpu":
        trigger: Object = {
            "type": "cpu",
            "metricType": "Utilization",
            "metadata": {"value": str(round(scaling.target))},
        }
    else:
        query = _QUERIES[scaling.metric].format(
            gauge="modelyard_requests_in_flight",
            counter="modelyard_requests_total",
            namespace=meta["namespace"],
            name=meta["name"],
        )
        told = {"serverAddress": installation.prometheus_url, "query": query, "threshold": f"{scaling.target:g}"}
        trigger = {"type": "prometheus", "metricType": "AverageValue", "metadata": told}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": _metadata(service),
        "spec": {
            "scaleTargetRef": _target(service),
            "minReplicaCount": scaling.min_replicas,
            "maxReplicaCount": scaling.max_replicas,
            "cooldownPeriod": scaling.scale_down_delay_seconds,
            "triggers": [trigger],
        },
    }


def _metadata(service: Object) -> Object:
    meta = service["metadata"]
    return {
        "name": meta["name"],
        "namespace": meta["namespace"],
        "labels": labels_for(SERVICE, meta["name"]),
        "ownerReferences": [owner_reference(service)],
    }
