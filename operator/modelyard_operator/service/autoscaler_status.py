"""What an autoscaler of others has said of a service: a HorizontalPodAutoscaler, or KEDA's ScaledObject. Pure.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale-walkthrough/#appendix-horizontal-pod-autoscaler-status-conditions
https://keda.sh/docs/latest/reference/scaledobject-spec/
"""

from __future__ import annotations

from modelyard_operator.conditions import find
from modelyard_operator.plan import Children, Object
from modelyard_operator.service.scaling_spec import Scaling

_KINDS = {"HPA": "HorizontalPodAutoscaler", "KEDA": "ScaledObject"}
_NEEDED = {"HPA": ("AbleToScale", "ScalingActive"), "KEDA": ("Ready",)}
"""Conditions without which nothing is scaled; the last one, where true, says why it is well."""
_WHO = {"HPA": "the controller manager of the cluster", "KEDA": "KEDA; is its operator running?"}
_SWITCHED_OFF = "ScalingDisabled"
"""An HPA's word for a service that was scaled to nothing by hand."""

Word = tuple[bool | None, str, str]
"""Status, reason and message of a condition."""


def scaling_word(name: str, scaling: Scaling | None, children: Children) -> Word | None:
    """Whether the autoscaler of the service `name` does its work; None where it has none of others."""
    if scaling is None or scaling.backend not in _KINDS:
        return None
    kind = _KINDS[scaling.backend]
    refused = children.refusals.get(f"{kind}/{name}")
    if refused is not None:
        return False, "ChildRefused", refused
    found = next((c for c in children.extras if c["kind"] == kind and c["metadata"]["name"] == name), {})
    told: Object = {}
    for type_ in _NEEDED[scaling.backend]:
        told = find(found.get("status"), type_) or {}
        if told.get("reason") == _SWITCHED_OFF:
            return None, _SWITCHED_OFF, str(told.get("message", ""))
        if told.get("status") == "False":
            return False, str(told.get("reason") or type_), f"{kind} {name}: {told.get('message', '')}"
    if told.get("status") != "True":
        return None, "WaitingForAutoscaler", f"nothing is said yet of the {kind} by {_WHO[scaling.backend]}"
    return True, str(told.get("reason") or "Scaling"), str(told.get("message", ""))
