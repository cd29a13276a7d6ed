"""What an autoscaler of others has said of a service: a HorizontalPodAutoscaler, or KEDA's ScaledObject. Pure.

https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale-walkthrough/#appendix-horizontal-pod-autoscaler-status-conditions
https://keda.sh/docs/latest/reference/scaledobject-spec/
"""

from __future__ import annotations

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
    said = _conditions(found)
    for type_ in _NEEDED[scaling.backend]:
        condition = said.get(type_, {})
        if condition.get("reason") == _SWITCHED_OFF:
            return None, _SWITCHED_OFF, str(condition.get("message", ""))
        if condition.get("status") == "False":
            return False, str(condition.get("reason") or type_), f"{kind} {name}: {condition.get('message', '')}"
    last = said.get(_NEEDED[scaling.backend][-1], {})
    if last.get("status") != "True":
        return None, "WaitingForAutoscaler", f"nothing is said yet of the {kind} by {_WHO[scaling.backend]}"
    return True, str(last.get("reason") or "Scaling"), str(last.get("message", ""))


def _conditions(autoscaler: Object) -> dict[str, Object]:
    return {c["type"]: c for c in (autoscaler.get("status") or {}).get("conditions") or ()}
