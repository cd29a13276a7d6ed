"""The pods of a training, put into words once: which attempt, which rank, how far, what failed. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelyard_operator.objects import is_owned_by, is_terminating, parse_time
from modelyard_operator.plan import Object

CONTAINER = "trainer"
SETTLING_SECONDS = 3.0
"""How long a pod may be unschedulable before that is reported."""

_SIGNALS = {1: "SIGHUP", 2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL"}
_SIGNALS |= {11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}
# What a rank says when a peer has died under it: the symptom of somebody else's failure.
_PEER_SYMPTOM = re.compile(
    r"connection (?:was )?(?:closed|reset|refused)|closed by peer|reset by peer|DistBackendError|DistNetworkError"
    r"|nccl(?:Remote|System)Error|gloo|Socket Timeout",
    re.IGNORECASE,
)
_INFRASTRUCTURE = {
    "EvictionByEvictionAPI": "Evicted",
    "TerminationByKubelet": "Evicted",
    "PreemptionByScheduler": "Preempted",
    "PreemptionByKubeScheduler": "Preempted",
    "DeletionByTaintManager": "NodeLost",
    "DeletionByPodGC": "NodeLost",
}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an attempt failed: the first rank to fail, and what it left behind."""

    reason: str
    """CamelCase: Error, Signal, OOMKilled, Checkpointed, Evicted, Preempted, NodeLost, PodDeleted, Stalled, …"""
    message: str = ""
    rank: int | None = None
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    exception_type: str | None = None
    log_tail: str | None = None
    step: int | None = None
    at: datetime | None = None

    @property
    def is_symptom(self) -> bool:
        """Whether this looks like the echo of another rank's failure."""
        return self.reason == "Error" and bool(_PEER_SYMPTOM.search(f"{self.exception_type} {self.message}"))


@dataclass(frozen=True, kw_only=True)
class Gang:
    """The pods of one training, classified by attempt."""

    attempt: int
    size: int
    pods: Mapping[int, Object] = field(default_factory=dict)
    """Node rank -> pod of the current attempt."""
    stale: tuple[Object, ...] = ()
    """Pods of earlier attempts, to be deleted."""
    ahead: bool = False
    """There are pods of a later attempt: the status at hand is older than the world."""

    @property
    def scheduled(self) -> int:
        return sum(1 for pod in self.pods.values() if pod["spec"].get("nodeName"))

    @property
    def running(self) -> int:
        return sum(1 for pod in self.pods.values() if _phase(pod) == "Running" and not is_terminating(pod))

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
    def missing(self) -> tuple[int, ...]:
        return tuple(rank for rank in range(self.size) if rank not in self.pods)

    @property
    def everything(self) -> tuple[Object, ...]:
        return (*self.stale, *self.pods.values())


def classify(parent: Object, pods: Iterable[Object], attempt: int, size: int) -> Gang:
    """Sort pods by the attempt and the rank in their names; names cannot be changed, labels can."""
    pattern = re.compile(re.escape(parent["metadata"]["name"]) + r"-(\d+)-(\d+)")
    current: dict[int, Object] = {}
    stale: list[Object] = []
    ahead = False
    for pod in pods:
        match = pattern.fullmatch(pod["metadata"]["name"])
        if match is None or not (is_owned_by(pod, parent) or _lost_its_owner(pod, parent)):
            continue
        pod_attempt, rank = int(match[1]), int(match[2])
        if pod_attempt > attempt:
            ahead = True
        elif pod_attempt < attempt or rank >= size:
            stale.append(pod)
        else:
            current[rank] = pod
    return Gang(attempt=attempt, size=size, pods=current, stale=tuple(stale), ahead=ahead)


def _lost_its_owner(pod: Object, parent: Object) -> bool:
    """A pod of ours from which somebody took the owner; it gets it back. One that is older than the parent was made
    for a namesake of it."""
    meta = pod["metadata"]
    return not meta.get("ownerReferences") and (
        (meta.get("creationTimestamp") or "") >= (parent["metadata"].get("creationTimestamp") or "")
    )


def termination(pod: Object) -> Object | None:
    """The trainer container's terminated state, or None while it waits or runs."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == CONTAINER:
            state: Object | None = (status.get("state") or {}).get("terminated")
            return state
    return None


def termination_record(pod: Object) -> dict[str, Any]:
    """The JSON object that the launcher left in the termination message; empty for images that leave none."""
    text = (termination(pod) or {}).get("message") or ""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def failure_of(pod: Object, rank: int) -> Failure | None:
    """How this pod failed, or None if it has not."""
    status = pod.get("status") or {}
    state = termination(pod)
    if _phase(pod) != "Failed" and (state is None or state.get("exitCode") == 0):
        return None
    state = state or {}
    record = termination_record(pod)
    told = record.get("failure") or {}
    exit_code = state.get("exitCode")
    signal = told.get("signal") or (_SIGNALS.get(exit_code - 128) if isinstance(exit_code, int) else None)
    message = told.get("message") or (state.get("message") if not record else "") or status.get("message") or ""
    return Failure(
        reason=_reason(status, state, told, signal),
        message=str(message)[:1024],
        rank=told.get("rank", rank),
        pod=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName"),
        exit_code=exit_code,
        signal=signal,
        exception_type=told.get("exceptionType"),
        log_tail=(told.get("logTail") or None) and str(told["logTail"])[-2048:],
        step=record.get("step") if isinstance(record.get("step"), int) else None,
        at=parse_time(state.get("finishedAt")),
    )


def first_failure(gang: Gang) -> Failure | None:
    """The root cause among the pods that failed: the earliest, and never a symptom while there is a cause."""
    failures = [f for rank, pod in sorted(gang.pods.items()) if (f := failure_of(pod, rank))]
    far = max((f.at for f in failures if f.at), default=None)
    return min(failures, key=lambda f: (f.is_symptom, f.at or far or 0, f.rank or 0), default=None)


def vanished(gang: Gang) -> Failure | None:
    """A pod that was deleted by someone and has outlived its grace period: its node does not answer."""
    for rank, pod in sorted(gang.pods.items()):
        if is_terminating(pod):
            reason = _disruption(pod.get("status") or {}) or "NodeLost"
            message = f"pod {pod['metadata']['name']} was deleted and its node does not end it"
            return Failure(
                reason=reason, message=message, rank=rank, pod=pod["metadata"]["name"], node=pod["spec"].get("nodeName")
            )
    return None


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


def _disruption(status: Object) -> str | None:
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return _INFRASTRUCTURE.get(condition.get("reason", ""), "Evicted")
    return None


def _reason(status: Object, state: Object, told: Mapping[str, Any], signal: str | None) -> str:
    if told.get("reason") == "Checkpointed" or state.get("exitCode") == 75:
        return "Checkpointed"
    if state.get("reason") == "OOMKilled":
        return "OOMKilled"
    if disruption := _disruption(status):
        return disruption
    if status.get("reason") in ("Evicted", "Preempting", "NodeLost", "NodeShutdown", "Terminated"):
        return "Evicted" if status["reason"] in ("Evicted", "Preempting") else "NodeLost"
    if state.get("reason") in ("StartError", "ContainerCannotRun"):
        return "StartError"
    return "Signal" if signal else "Error"
