"""The pods of a training, put into words once: which attempt, which rank, how far, what they wait for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from modelyard_operator.objects import is_owned_by, is_terminating, parse_time
from modelyard_operator.plan import Object

SETTLING_SECONDS = 3.0
"""How long a pod may be unschedulable before that is reported."""


@dataclass(frozen=True, kw_only=True)
class Gang:
    """The pods of one training, classified by attempt."""

    attempt: int
    size: int
    pods: Mapping[int, Object] = field(default_factory=dict)
    """Node rank -> pod of the current attempt."""
    stale: tuple[Object, ...] = ()
    """Pods of earlier attempts, to be deleted."""
    spares: Mapping[int, Object] = field(default_factory=dict)
    """Pods of the current attempt beyond its size, which hold the places of nodes to come."""
    ahead: bool = False
    """There are pods of a later attempt: the status at hand is older than the world."""

    @property
    def scheduled(self) -> int:
        return sum(1 for pod in self.pods.values() if pod["spec"].get("nodeName"))

    @property
    def running(self) -> int:
        return sum(1 for pod in self.pods.values() if _phase(pod) == "Running" and not is_terminating(pod))

    @property
    def active(self) -> int:
        """Pods that have not ended, as far as is known: those that were told to end, and those of which the kubelet has
        not said yet that they began, too.
        """
        return sum(1 for pod in self.pods.values() if is_active(pod))

    @property
    def started(self) -> int:
        """Pods that run or ran."""
        return sum(1 for pod in self.pods.values() if _phase(pod) in ("Running", "Succeeded", "Failed"))

    @property
    def succeeded(self) -> int:
        return sum(1 for pod in self.pods.values() if _phase(pod) == "Succeeded")

    @property
    def failed(self) -> int:
        return sum(1 for pod in self.pods.values() if _phase(pod) == "Failed")

    @property
    def queued(self) -> bool:
        """Whether a pod waits behind a scheduling gate, as those of a Kueue queue do."""
        return any(_is_gated(pod) for pod in self.pods.values())

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(rank for rank in range(self.size) if rank not in self.pods)

    @property
    def everything(self) -> tuple[Object, ...]:
        return (*self.stale, *self.pods.values(), *self.spares.values())


def classify(parent: Object, pods: Iterable[Object], attempt: int, size: int) -> Gang:
    """Sort pods by the attempt and the rank in their names; names cannot be changed, labels can."""
    pattern = re.compile(re.escape(parent["metadata"]["name"]) + r"-(\d+)-(\d+)")
    current: dict[int, Object] = {}
    stale: list[Object] = []
    spares: dict[int, Object] = {}
    ahead = False
    for pod in pods:
        match = pattern.fullmatch(pod["metadata"]["name"])
        if match is None or not (is_owned_by(pod, parent) or _lost_its_owner(pod, parent)):
            continue
        pod_attempt, rank = int(match[1]), int(match[2])
        if pod_attempt > attempt:
            ahead = True
        elif pod_attempt < attempt:
            stale.append(pod)
        elif rank >= size:
            spares[rank] = pod
        else:
            current[rank] = pod
    return Gang(attempt=attempt, size=size, pods=current, stale=tuple(stale), spares=spares, ahead=ahead)


def _lost_its_owner(pod: Object, parent: Object) -> bool:
    """A pod of ours from which somebody took the owner; it gets it back. One that is older than the parent was made
    for a namesake of it."""
    meta = pod["metadata"]
    return not meta.get("ownerReferences") and (
        (meta.get("creationTimestamp") or "") >= (parent["metadata"].get("creationTimestamp") or "")
    )


def waiting_reasons(gang: Gang, warnings: Mapping[str, str], now: datetime) -> list[tuple[str, str]]:
    """Why pods of the gang do not run yet: (reason, message), from the scheduler, the kubelet and its Events.

    What the scheduler says of a fresh pod is left out: a claim that is just being bound is no news.
    """
    found: list[tuple[str, str]] = []
    for _, pod in sorted(gang.pods.items()):
        status = pod.get("status") or {}
        name = pod["metadata"]["name"]
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                since = parse_time(condition.get("lastTransitionTime")) or now
                if (now - since).total_seconds() < SETTLING_SECONDS:
                    continue
                found.append((condition.get("reason") or "Unschedulable", f"{name}: {condition.get('message', '')}"))
        for container in status.get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                found.append((waiting["reason"], f"{name}: {waiting.get('message', '')}"))
        if name in warnings and not any(text.startswith(name) for _, text in found):
            reason, _, message = warnings[name].partition(": ")
            found.append((reason, f"{name}: {message}"))
    return found


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def is_active(pod: Object) -> bool:
    """Whether it has not ended yet."""
    return _phase(pod) not in ("Succeeded", "Failed")


def unplaced_since(pod: Object) -> datetime | None:
    """Since when the scheduler finds no place for a pod; None where it found one, or was not asked yet."""
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            waits = condition.get("reason") == "Unschedulable"
            return parse_time(condition.get("lastTransitionTime")) if waits else None
    return None


def _is_gated(pod: Object) -> bool:
    return any(
        c["type"] == "PodScheduled" and c["status"] == "False" and c.get("reason") == "SchedulingGated"
        for c in (pod.get("status") or {}).get("conditions") or ()
    )
