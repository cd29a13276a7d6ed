"""What voluntary disruptions may take at once: a PodDisruptionBudget for the servers, and one for the routers. Pure.

A drained node evicts all of its pods together. With a budget it takes one and waits until another is Ready elsewhere.
https://kubernetes.io/docs/concepts/workloads/pods/disruptions/
"""

from __future__ import annotations

from modelyard_operator.objects import (
    LABEL_REVISION,
    LABEL_SERVICE,
    MANAGED_BY,
    MANAGER,
    child_metadata,
    router_name,
)
from modelyard_operator.plan import Object
from modelyard_operator.service.routing import router_selector
from modelyard_operator.service.runtime import Installation
from modelyard_operator.service.spec import ModelServiceSpec


def make_disruption_budgets(
    service: Object, spec: ModelServiceSpec, installation: Installation, *, routed: bool
) -> list[Object]:
    """A budget wherever there may be two pods of a kind. A single one has none: nothing could be kept of it, and a
    drain that must not touch it would wait for ever."""
    made, name = [], service["metadata"]["name"]
    most = spec.replicas if spec.scaling is None else max(spec.replicas, spec.scaling.max_replicas)
    if most > 1 and not spec.suspend:
        servers = {"matchLabels": {MANAGED_BY: MANAGER, LABEL_SERVICE: name}}
        of_a_revision = [{"key": LABEL_REVISION, "operator": "Exists"}]
        made.append(_budget(service, name, {**servers, "matchExpressions": of_a_revision}))
    if routed and installation.router_replicas > 1:
        made.append(_budget(service, router_name(name), {"matchLabels": router_selector(name)}))
    return made


def _budget(service: Object, name: str, selector: Object) -> Object:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": child_metadata(service, name),
        # A pod that is not Ready serves nobody: it must not hold up a drain.
        "spec": {"maxUnavailable": 1, "selector": selector, "unhealthyPodEvictionPolicy": "AlwaysAllow"},
    }
