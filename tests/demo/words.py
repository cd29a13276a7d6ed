"""What the two resources' status says, for the live view: pure functions from objects to words."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """Progress of the ModelTraining; `eta` in seconds, None where unknown."""

    phase: str
    step: int
    total: int
    epoch: int
    eta: float | None
    nodes: str
    restarts: int
    note: str

    @property
    def fraction(self) -> float:
        """Done, 0 to 1."""
        if self.phase == "Succeeded":
            return 1.0
        return min(1.0, self.step / self.total) if self.total else 0.0


def training_words(training: Object, now: datetime) -> Training:
    """The status in words, ETA counted on from when it was told."""
    status = training.get("status") or {}
    progress = status.get("progress") or {}
    phase = status.get("phase") or "Pending"
    return Training(
        phase=phase,
        step=progress.get("step") or 0,
        total=progress.get("totalSteps") or 0,
        epoch=int(progress.get("epoch") or 0),
        eta=_remaining(progress, now) if phase == "Running" else None,
        nodes=(status.get("display") or {}).get("nodes", ""),
        restarts=status.get("restarts") or 0,
        note=_note(status, phase),
    )


def _remaining(progress: Object, now: datetime) -> float | None:
    estimated, told = progress.get("estimatedRemainingSeconds"), progress.get("lastUpdateTime")
    if estimated is None or not told:
        return None
    age = (now - datetime.fromisoformat(told).astimezone(UTC)).total_seconds()
    return max(0.0, float(estimated) - max(0.0, age))


def _note(status: Object, phase: str) -> str:
    """What is in the way, if anything."""
    if phase == "Failed":
        return str(condition(status, "Succeeded").get("message", ""))
    for type_ in ("Accepted", "Stalled", "Restarting", "Scheduled"):
        found = condition(status, type_)
        bad = "False" if type_ in ("Accepted", "Scheduled") else "True"
        if found.get("status") == bad and phase != "Succeeded":
            return str(found.get("message", ""))
    return ""


def service_words(service: Object) -> tuple[str, str]:
    """The phase, and what it waits for or where it serves."""
    status = service.get("status") or {}
    ready = condition(status, "Ready")
    if ready.get("status") == "True":
        return "Ready", str(status.get("url") or "")
    for type_ in ("Accepted", "ModelResolved", "Stalled", "ModelLoaded", "PredictorReady", "Ready"):
        found = condition(status, type_)
        if found.get("status") == ("True" if type_ == "Stalled" else "False") and found.get("message"):
            return str(status.get("phase") or "Pending"), str(found["message"])
    return str(status.get("phase") or "Pending"), ""


def is_ready(service: Object) -> bool:
    """Whether the ModelService serves."""
    return condition(service.get("status") or {}, "Ready").get("status") == "True"


def pod_words(pod: Object) -> str:
    """One word as `kubectl get pods` has it."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        state = container.get("state") or {}
        for kind in ("waiting", "terminated"):
            if state.get(kind, {}).get("reason"):
                return str(state[kind]["reason"])
    return str(status.get("phase") or "Pending")


def condition(status: Object, type_: str) -> Object:
    """The condition of this type; empty without one."""
    return next((c for c in status.get("conditions") or () if c.get("type") == type_), {})


def why_hopeless(resource: Object) -> str:
    """Why waiting for this training or service is in vain, with what is known of the cause; empty while it is not."""
    status = resource.get("status") or {}
    kind, name = resource.get("kind", "resource"), resource["metadata"]["name"]
    refused = condition(status, "Accepted")
    if refused.get("status") == "False":
        return f"{kind} {name} is refused: {refused.get('message', '')}"
    if status.get("phase") == "Failed":
        reason = condition(status, "Succeeded") or condition(status, "Ready")
        return f"{kind} {name} failed: {reason.get('message', '')}\n{failure_words(status)}".rstrip()
    resolved = condition(status, "ModelResolved")
    if resolved.get("reason") in ("TrainingFailed", "ArtifactMissing"):
        return f"{kind} {name} has no model: {resolved.get('message', '')}"
    return ""


def why_stalled(resource: Object) -> str:
    """What is in the way of this training or service; empty while it goes on."""
    status = resource.get("status") or {}
    stalled = condition(status, "Stalled")
    if stalled.get("status") != "True":
        return ""
    name = f"{resource.get('kind', 'resource')} {resource['metadata']['name']}"
    return f"{name} is stalled, {stalled.get('reason', '')}: {stalled.get('message', '')}"


def failure_words(status: Object) -> str:
    """status.lastFailure, line by line; empty without one."""
    failure = status.get("lastFailure") or {}
    names = ("podName", "rank", "reason", "exitCode", "signal", "exceptionType", "message", "rule", "action")
    lines = [f"  {name}: {failure[name]}" for name in names if failure.get(name) not in (None, "")]
    if failure.get("logTail"):
        lines += ["  the end of its log:", *(f"    {line}" for line in str(failure["logTail"]).splitlines())]
    return "\n".join(["status.lastFailure:", *lines]) if lines else ""
