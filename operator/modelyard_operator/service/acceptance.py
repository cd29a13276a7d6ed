"""What gateways have said of a service's HTTPRoute. Pure.

https://gateway-api.sigs.k8s.io/reference/spec/#routeparentstatus
"""

from __future__ import annotations

from modelyard_operator.plan import Object

ACCEPTED, RESOLVED = "Accepted", "ResolvedRefs"


def refusal_of(route: Object | None, gateway: str) -> tuple[bool | None, str, str] | None:
    """Why requests from outside do not come in, as the status, reason and message of a condition; None if they do."""
    told = [_conditions(parent, _generation(route)) for parent in _parents(route)]
    if any(said.get(ACCEPTED, {}).get("status") == "True" and not _unresolved(said) for said in told):
        return None
    for said in told:
        for type_ in (ACCEPTED, RESOLVED):
            condition = said.get(type_, {})
            if condition.get("status") == "False":
                message = f"Gateway {gateway}: {condition.get('reason', type_)}: {condition.get('message', '')}"
                return False, "RouteNotAccepted", message
    message = f"no gateway has answered for the HTTPRoute; is there a Gateway {gateway}, and a controller of its class?"
    return None, "WaitingForGateway", message


def _parents(route: Object | None) -> list[Object]:
    return list(((route or {}).get("status") or {}).get("parents") or ())


def _generation(route: Object | None) -> int:
    return int((route or {}).get("metadata", {}).get("generation") or 0)


def _conditions(parent: Object, generation: int) -> dict[str, Object]:
    """By type; what was said of an older spec is not said of this one."""
    told = parent.get("conditions") or ()
    return {c["type"]: c for c in told if (c.get("observedGeneration") or 0) >= generation}


def _unresolved(said: dict[str, Object]) -> bool:
    return bool(said.get(RESOLVED, {}).get("status") == "False")
