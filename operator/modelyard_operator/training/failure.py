"""How a pod of a training failed, and which failure is the cause of the others: read from the pods. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard_operator.objects import is_terminating, parse_time
from modelyard_operator.plan import Object

CONTAINER = "trainer"
LOG_LINES = 20
"""How much of a log is kept with a failure."""

_SIGNALS = {1: "SIGHUP", 2: "SIGINT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL"}
_SIGNALS |= {11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}
# What a rank says when a peer has died under it: the symptom of somebody else's failure.
_PEER_SYMPTOM = re.compile(
    r"connection (?:was )?(?:closed|reset|refused)|closed by peer|reset by peer|DistBackendError|DistNetworkError"
    r"|nccl(?:Remote|System)Error|gloo|Socket Timeout",
    re.IGNORECASE,
)
_RAISED = re.compile(r"((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Interrupt|Exit))(?:: (.*))?$")
"""The line of a Python traceback that names the exception."""
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
    stacks: str | None = None
    """Where the stacks of the ranks are, for a training that hung."""
    lost_peer: bool = False
    """The launcher says so itself: this rank ended because another had."""

    @property
    def is_symptom(self) -> bool:
        """Whether this looks like the echo of another rank's failure."""
        echo = self.lost_peer or bool(_PEER_SYMPTOM.search(f"{self.exception_type} {self.message}"))
        return self.reason == "Error" and echo


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
    told = record.get("failure") or ({} if record else _from_log(state.get("message") or ""))
    exit_code = state.get("exitCode")
    signal = told.get("signal") or (_SIGNALS.get(exit_code - 128) if isinstance(exit_code, int) else None)
    return Failure(
        reason=_reason(status, state, told, signal),
        message=str(told.get("message") or status.get("message") or "")[:1024],
        rank=told.get("rank", rank),
        pod=pod["metadata"]["name"],
        node=pod["spec"].get("nodeName"),
        exit_code=exit_code,
        signal=signal,
        exception_type=told.get("exceptionType"),
        log_tail=(told.get("logTail") or None) and str(told["logTail"])[-2048:],
        step=record.get("step") if isinstance(record.get("step"), int) else None,
        at=parse_time(state.get("finishedAt")),
        lost_peer=told.get("reason") == "PeerLost",
    )


def _from_log(text: str) -> dict[str, Any]:
    """What the end of a log says, for images that leave no record: the kubelet puts it into the message instead."""
    lines = text.rstrip().splitlines()[-LOG_LINES:]
    if not lines:
        return {}
    raised = next((found for line in reversed(lines) if (found := _RAISED.match(line))), None)
    told = {"message": lines[-1].strip(), "logTail": "\n".join(lines)}
    return told | {"exceptionType": raised[1], "message": raised[2] or raised[1]} if raised else told


def first_failure(pods: Mapping[int, Object]) -> Failure | None:
    """The root cause among the pods (by rank) that failed: the earliest, and no symptom while there is a cause."""
    failures = [f for rank, pod in sorted(pods.items()) if (f := failure_of(pod, rank))]
    far = max((f.at for f in failures if f.at), default=None)
    return min(failures, key=lambda f: (f.is_symptom, f.at or far or 0, f.rank or 0), default=None)


def lost_with_node(pod: Object, rank: int, why: str) -> Failure:
    """The failure of a pod whose node does not answer."""
    reason = _disruption(pod.get("status") or {}) or "NodeLost"
    name, node = pod["metadata"]["name"], pod["spec"].get("nodeName")
    return Failure(reason=reason, message=f"pod {name}: {why}", rank=rank, pod=name, node=node)


def node_lost_since(pod: Object) -> datetime | None:
    """Since when the cluster knows that the node of a pod does not answer; None while it does.

    The node controller marks running pods of such a node unready, without a reason and without touching their
    containers (`MarkPodsNotReady`); a kubelet that lives gives a reason, and says which container is not ready. A pod
    that never started is not marked: there it shows by the taint manager's deletion, which no kubelet needs time for.
    """
    status = pod.get("status") or {}
    told = {c["type"]: c for c in status.get("conditions") or ()}
    if _phase(pod) == "Pending" and is_terminating(pod):
        evicted = told.get("DisruptionTarget") or {}
        lost = evicted.get("status") == "True" and evicted.get("reason") == "DeletionByTaintManager"
        return parse_time(evicted["lastTransitionTime"]) if lost else None
    ready = told.get("Ready") or {}
    if _phase(pod) != "Running" or ready.get("status") != "False" or ready.get("reason"):
        return None
    containers = status.get("containerStatuses") or ()
    works = any(c.get("name") == CONTAINER and c.get("ready") for c in containers)
    return parse_time(ready.get("lastTransitionTime")) if works else None


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def _disruption(status: Object) -> str | None:
    for condition in status.get("conditions") or ():
        if condition["status"] != "True":
            continue
        if condition["type"] == "DisruptionTarget":
            return _INFRASTRUCTURE.get(condition.get("reason", ""), "Evicted")
        if condition["type"] == "TerminationTarget":  # Kueue's word for a pod of a group that it takes its quota from
            return "Preempted"
    return None


def _reason(status: Object, state: Object, told: Mapping[str, Any], signal: str | None) -> str:
    if told.get("reason") == "Checkpointed" or state.get("exitCode") == 75:
        return "Checkpointed"
    if "OOMKilled" in (state.get("reason"), told.get("reason")):
        return "OOMKilled"
    if disruption := _disruption(status):
        return disruption
    if status.get("reason") in ("Evicted", "Preempting", "NodeLost", "NodeShutdown", "Terminated"):
        return "Evicted" if status["reason"] in ("Evicted", "Preempting") else "NodeLost"
    if state.get("reason") in ("StartError", "ContainerCannotRun"):
        return "StartError"
    return "Signal" if signal else "Error"
