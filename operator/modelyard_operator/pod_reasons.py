"""Why pods wait, in the words of the kubelet: mounts and secrets show up in Events only.

The API server keeps no index of Events: each question reads those of the whole namespace. So they are rationed, and a
pod that waits merely because a thousand others do is rarely asked at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import NamedTuple

from modelyard_operator.cluster import Cluster
from modelyard_operator.objects import is_terminating, parse_time
from modelyard_operator.plan import Key, Object

FIRST_AFTER_SECONDS = 3.0
"""A pod that still waits after this time is asked why: its Events are read, then and from time to time."""
AGAIN_AFTER_SECONDS = 15.0
UNANSWERED_AFTER_SECONDS = 5.0
"""As long as nothing was answered: a busy kubelet may not have said yet why."""
SCHEDULING = "FailedScheduling"
"""What the scheduler said before the pod had a node is no reason why it still waits."""
BURST = 20
PER_SECOND = 4.0
"""Questions at once, and on and on. Of a hundred pods that cannot start the last is asked after 20 s."""


class Told(NamedTuple):
    """What is known of the pods of one parent."""

    warnings: dict[str, str]
    """Pod name -> `Reason: message` of its newest Warning event."""
    next_look: float | None
    """Seconds until a pod is to be asked, though no other event may come; None where none waits."""


@dataclass
class _Question:
    due: float
    answer: str = ""


class PodReasons:
    """Asks about pods that wait on a node, and remembers the answers while they do."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._questions: dict[Key, dict[str, _Question]] = {}
        self._next_turn = 0.0

    async def of(self, key: Key, pods: Iterable[Object]) -> Told:
        """Ask about the pods of one parent whose turn it is. Raises ApiError."""
        before = self._questions.pop(key, {})
        waiting: dict[str, _Question] = {}
        warnings, looks = {}, []
        for pod in pods:
            left = _seconds_left(pod, datetime.now(UTC))
            if left is None:
                continue
            if left > 0:
                looks.append(left)
                continue
            name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
            question = waiting[uid] = before.get(uid) or _Question(self._turn())
            if question.due <= monotonic():
                question.answer = await self._ask(pod)
                patience = AGAIN_AFTER_SECONDS if question.answer else UNANSWERED_AFTER_SECONDS
                question.due = max(self._turn(), monotonic() + patience)
            if question.answer:
                warnings[name] = question.answer
            looks.append(question.due - monotonic())
        if waiting:
            self._questions[key] = waiting
        return Told(warnings, max(0.0, min(looks)) if looks else None)

    def forget(self, key: Key) -> None:
        self._questions.pop(key, None)

    def _turn(self) -> float:
        """When the next question may be asked (monotonic seconds): at once, as long as there are few."""
        self._next_turn = max(self._next_turn, monotonic() - BURST / PER_SECOND) + 1 / PER_SECOND
        return self._next_turn

    async def _ask(self, pod: Object) -> str:
        meta = pod["metadata"]
        fields = f"involvedObject.uid={meta['uid']},type=Warning"
        events = await self._cluster.list("Event", meta["namespace"], fields=fields)
        told = [event for event in events if event.get("reason") != SCHEDULING]
        newest = max(told, key=lambda e: e.get("lastTimestamp") or e.get("eventTime") or "", default=None)
        return f"{newest.get('reason')}: {newest.get('message')}" if newest else ""


def _seconds_left(pod: Object, now: datetime) -> float | None:
    """Seconds until a pod that waits on a node is asked why, not above 0 when it is time; None for all other pods."""
    status = pod.get("status") or {}
    if status.get("phase") != "Pending" or not pod["spec"].get("nodeName") or is_terminating(pod):
        return None
    created = parse_time(pod["metadata"].get("creationTimestamp")) or now
    return FIRST_AFTER_SECONDS - (now - created).total_seconds()
