"""How much is free of what a training finds no place for, read from nodes and pods, seldom and page by page.

A large cluster has tens of megabytes of pods: nobody watches them for a word in a message. They are read when a
training is short of a GPU, once a minute at most for all trainings, and kept as sums. Where the operator may not list
nodes (`rbac.readNodes: false`) or is there for some namespaces only, what is free stays unsaid.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.plan import Key, Object
from modelyard_operator.room import Amounts, Room, held_by, is_extended, offered_by, rooms, short_of

log = logging.getLogger(__name__)

READ_AGAIN_SECONDS = 60.0
"""No reading is older where one is asked for."""
SAID_AGAIN_SECONDS = 300.0
"""What a training was told stands for so long while the scheduler says the same: its status is not written for each pod
that comes and goes elsewhere."""
REFUSED_SECONDS = 600.0
"""After a refusal the rights are tried again."""
_ALIVE = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="


@dataclass(frozen=True)
class _Said:
    short: tuple[str, ...]
    room: Mapping[str, Room]
    at: float


class Capacity:
    """Knows what is free, for those who wait for it. `wake` is called with each of them when that was read."""

    def __init__(self, cluster: Cluster, wake: Callable[[Key], None]) -> None:
        self._cluster = cluster
        self._wake = wake
        self._room: Mapping[str, Room] | None = None
        self._due = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._waiting: set[Key] = set()
        self._said: dict[Key, _Said] = {}

    def of(self, key: Key, pods: Iterable[Object]) -> Mapping[str, Room]:
        """Resource -> room, of the extended resources that pods of one parent wait for; empty where none does, and
        until it was read.
        """
        short = tuple(sorted({name for pod in pods for name in _short_of(pod)}))
        said = self._said.get(key)
        if not short:
            self.forget(key)
            return {}
        if said is not None and said.short == short and monotonic() - said.at < SAID_AGAIN_SECONDS:
            return said.room
        if monotonic() >= self._due:
            self._waiting.add(key)
            if self._reading is None:
                self._reading = asyncio.get_running_loop().create_task(self._read())
            return said.room if said is not None and said.short == short else {}
        if self._room is None:
            return {}
        said = _Said(short, {name: self._room.get(name, Room(nodes=0)) for name in short}, monotonic())
        self._said[key] = said
        return said.room

    def forget(self, key: Key) -> None:
        self._said.pop(key, None)

    async def _read(self) -> None:
        """Of all nodes; None where it cannot be known. No reconcile waits for it."""
        room, patience = None, READ_AGAIN_SECONDS
        try:
            room = await self._sum_up()
        except ApiError as error:
            log.info("what is free on the nodes is not known: %s", error)
            patience = REFUSED_SECONDS if error.code == 403 else READ_AGAIN_SECONDS
        finally:
            self._room, self._due, self._reading = room, monotonic() + patience, None
            for key in self._waiting:
                self._wake(key)
            self._waiting.clear()

    async def _sum_up(self) -> Mapping[str, Room]:
        offered: dict[str, Amounts] = {}
        async for node in self._cluster.pages("Node"):
            if amounts := offered_by(node):
                offered[node["metadata"]["name"]] = amounts
        held: list[tuple[str, Amounts]] = []
        if offered:
            async for pod in self._cluster.pages("Pod", fields=_ALIVE):
                if amounts := held_by(pod):
                    held.append((pod["spec"]["nodeName"], amounts))
        return rooms(offered, held)


def _short_of(pod: Object) -> list[str]:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return [name for name in short_of(condition.get("message") or "") if is_extended(name)]
    return []
