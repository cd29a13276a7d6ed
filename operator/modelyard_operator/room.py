"""How much of a GPU or any other extended resource is free on the nodes. Pure.

Cores and memory are left out: what is free of them changes with every pod of the cluster, and the scheduler's words say
enough. https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from modelyard_operator import quantity

_SHORT_OF = re.compile(r"Insufficient ([A-Za-z0-9][-A-Za-z0-9_./]*[A-Za-z0-9])")
Object = dict[str, Any]
Amounts = dict[str, Decimal]
"""Resource -> how much of it."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """Of one resource, on the nodes that are ready and take pods."""

    nodes: int
    """Those that have any, free or not."""
    total: Decimal = Decimal(0)
    free: Decimal = Decimal(0)
    most: Decimal = Decimal(0)
    """The most that is free on one node."""


def short_of(message: str) -> list[str]:
    """What the scheduler says there is too little of: `0/5 nodes are available: 5 Insufficient nvidia.com/gpu.`"""
    return list(dict.fromkeys(_SHORT_OF.findall(message)))


def is_extended(name: str) -> bool:
    return "/" in name


def offered_by(node: Object) -> Amounts:
    """The extended resources of a node; none while it takes no pods."""
    status = node.get("status") or {}
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    if not ready or (node.get("spec") or {}).get("unschedulable"):
        return {}
    return _extended(status.get("allocatable") or {})


def held_by(pod: Object) -> Amounts:
    """The extended resources that a pod keeps from others: of its containers together, or of the largest one before
    them. https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers
    """
    spec = pod["spec"]
    held: Amounts = {}
    before: Amounts = {}
    for container in spec.get("initContainers") or ():
        stays = container.get("restartPolicy") == "Always"
        for name, amount in _asked(container).items():
            before[name] = max(before.get(name, Decimal(0)), held.get(name, Decimal(0)) + amount)
            if stays:
                held[name] = held.get(name, Decimal(0)) + amount
    for container in spec.get("containers") or ():
        for name, amount in _asked(container).items():
            held[name] = held.get(name, Decimal(0)) + amount
    return {name: max(held.get(name, Decimal(0)), before.get(name, Decimal(0))) for name in {*held, *before}}


def rooms(offered: Mapping[str, Amounts], held: Iterable[tuple[str, Amounts]]) -> Mapping[str, Room]:
    """Resource -> its room, from what each node offers and the (node, amounts) of every pod that has not ended."""
    free = {node: dict(amounts) for node, amounts in offered.items()}
    for node, amounts in held:
        for name, amount in amounts.items():
            if name in free.get(node, ()):
                free[node][name] -= amount
    found: dict[str, Room] = {}
    for name in {name for amounts in offered.values() for name in amounts}:
        having = [node for node, amounts in offered.items() if name in amounts]
        left = [max(free[node][name], Decimal(0)) for node in having]
        total = sum((offered[node][name] for node in having), Decimal(0))
        found[name] = Room(nodes=len(having), total=total, free=sum(left, Decimal(0)), most=max(left))
    return found


def _asked(container: Object) -> Amounts:
    resources = container.get("resources") or {}
    return _extended({**(resources.get("limits") or {}), **(resources.get("requests") or {})})


def _extended(amounts: Mapping[str, str]) -> Amounts:
    found = {name: quantity.amount(str(text)) for name, text in amounts.items() if is_extended(name)}
    return {name: amount for name, amount in found.items() if amount > 0}
