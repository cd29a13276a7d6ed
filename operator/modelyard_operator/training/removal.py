"""Which pods go, and with how much grace. Pure.

A pod on a node that no longer answers is deleted by force: its kubelet will never say that it ended. What still runs
there is a zombie, and the fence on the output volume refuses its writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from modelyard_operator.objects import deletion_of, is_terminating, parse_time
from modelyard_operator.plan import Deletion, Object
from modelyard_operator.training.failure import node_lost_since

FAILED_GANG_GRACE_SECONDS = 5
"""The survivors of a failed gang hang in a collective: there is nothing that they could still save."""
LOST_NODE_PATIENCE_SECONDS = 5.0
"""A pod that is there for so long after its grace period has a node that does not answer."""


def removals(pods: Iterable[Object], grace_seconds: int | None, now: datetime) -> tuple[Deletion, ...]:
    """Deletions of pods: with this grace (None: their own), by force where no kubelet will end them."""
    found = []
    for pod in pods:
        left = seconds_left(pod, now)
        if pod["metadata"].get("deletionGracePeriodSeconds") == 0:
            continue  # it was deleted by force, and a finalizer of somebody else's keeps it
        lost = grace_seconds is not None and node_lost_since(pod) is not None
        if lost or (left is not None and left <= 0):
            found.append(deletion_of(pod, 0))
        elif left is None:
            found.append(deletion_of(pod, grace_seconds))
    return tuple(found)


def seconds_left(pod: Object, now: datetime) -> float | None:
    """Seconds until a pod that was told to end must be gone; None for one that was not told."""
    if not is_terminating(pod):
        return None
    due = parse_time(pod["metadata"]["deletionTimestamp"]) or now
    return (due - now).total_seconds() + LOST_NODE_PATIENCE_SECONDS


def next_look(pods: Iterable[Object], now: datetime) -> float | None:
    """Seconds until the first of these pods is overdue; None where none is to become so."""
    left = (seconds_left(pod, now) for pod in pods)
    return min((seconds for seconds in left if seconds is not None and seconds > 0), default=None)
