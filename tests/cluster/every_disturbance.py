"""The long form of test_traffic.py, for `make faults-serving ROUNDS=20`: everything is done to services in turn while
clients and streams ask them all the time, and a table says what they lost. ROUNDS and DISTURBANCES (a comma-separated
list of names; all if empty) come from the environment.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

import pytest
from cluster.disturbances import become, died, drained, rolled_out, scaled, servers
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.services import Clients, StreamClients, address, operator_of_small_servers, small_service

ROUNDS = int(os.environ.get("ROUNDS") or 20)
CLIENTS, PAUSE, STREAMS = 10, 0.02, 4
LEAST_RATE, LEAST_REQUESTS = 100, 10_000
"""Requests a second, and for each disturbance in 20 rounds."""
CANARY = {
    "strategy": "Canary",
    "steps": [{"percent": 20, "pauseSeconds": 4}, {"percent": 50, "pauseSeconds": 4}],
    "analysis": {"minRequests": 40, "maxP99Ratio": 10},
}
SETTLING_SECONDS = 30.0
"""How long clients ask around a death: its share of lost requests is one of this time."""

Disturbance = Callable[[Played, Clients, str], None]


@dataclass
class Tally:
    """What clients of one kind of disturbance got."""

    name: str
    bearable: float = 0.0
    """The share of requests that may be lost."""
    rounds: int = 0
    seconds: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    streams: int = 0
    failed: int = 0

    def take(self, clients: Clients, streams: Clients, seconds: float) -> None:
        self.rounds += 1
        self.seconds += seconds
        self.answers += clients.answers
        self.streams += streams.total
        self.failed += clients.failed + streams.failed
        self.failures += [f"{self.name}, round {self.rounds}, {what}" for what in clients.failures + streams.failures]

    @property
    def requests(self) -> int:
        return sum(self.answers.values()) + self.streams


def table(tallies: list[Tally]) -> str:
    rows = [f"{'disturbance':20}  rounds  requests  of them streams  a second  failed  answered"]
    for t in tallies:
        share = 100 * (1 - t.failed / max(1, t.requests))
        rate = t.requests / max(1.0, t.seconds)
        rows.append(
            f"{t.name:20}  {t.rounds:6}  {t.requests:8}  {t.streams:15}  {rate:8.0f}  {t.failed:6}  {share:7.3f}%"
        )
    return "\n".join([*rows, *(what for t in tallies for what in t.failures[:20])])


def promoted(played: Played, _: Clients, version: str) -> None:
    old = str(played.status["latestReadyRevision"])
    become(played, VERSION=version)

    def there() -> bool:
        status = played.status
        verdict = (status.get("canary") or {}).get("verdict")
        return verdict == "Promoted" and status["latestReadyRevision"] != old and status["phase"] == "Ready"

    eventually("the canary is promoted", there, 240, played.told)
    servers(played, 2)


def lost_a_server(played: Played, clients: Clients, _: str) -> None:
    began, asked = monotonic(), clients.total
    died(played)
    eventually("requests go on", lambda: clients.total > asked + 500, 120)
    eventually("a while has passed", lambda: monotonic() - began > SETTLING_SECONDS, SETTLING_SECONDS + 60)
    drained(played)  # the kubelet holds a container back that dies again and again


DISTURBANCES: tuple[tuple[Tally, Disturbance, Object], ...] = (
    (Tally("rollout"), rolled_out, {}),
    (Tally("out to 4 and in to 2"), lambda played, *_: scaled(played, 4, 2), {}),
    (Tally("drain"), lambda played, *_: drained(played), {}),
    (Tally("canary promoted"), promoted, {"rollout": CANARY}),
    (Tally("death of a server", bearable=0.01), lost_a_server, {}),
)


def chosen() -> list[tuple[Tally, Disturbance, Object]]:
    """The disturbances that the environment names."""
    names = [name.strip() for name in os.environ.get("DISTURBANCES", "").split(",") if name.strip()]
    known = [tally.name for tally, _, _ in DISTURBANCES]
    assert set(names) <= set(known), f"DISTURBANCES: {names}; there are: {', '.join(known)}"
    return [d for d in DISTURBANCES if not names or d[0].name in names]


@pytest.mark.timeout(4 * 3600)
def test_every_disturbance(laboratory: Laboratory, capsys: pytest.CaptureFixture[str]) -> None:
    _, namespace = operator_of_small_servers(laboratory, "disturbed")
    tallies = [tally for tally, _, _ in chosen()]
    with capsys.disabled():
        for tally, disturb, spec in chosen():
            name = tally.name.replace(" ", "-")
            played = Played.create(laboratory.api, namespace, small_service(name, replicas=2, **spec))
            played.wait("ready", phase="Ready")
            servers(played, 2)
            for number in range(ROUNDS):
                play(tally, disturb, played, str(number + 2))
            played.delete()
            sys.stdout.write(f"\n{table([t for t in tallies if t.rounds])}\n")
            sys.stdout.flush()
    assert all(tally.failed <= tally.bearable * tally.requests for tally in tallies)
    assert all(tally.requests > LEAST_RATE * tally.seconds for tally in tallies), "too few requests to prove anything"
    assert all(tally.requests >= LEAST_REQUESTS * ROUNDS / 20 for tally in tallies)


def play(tally: Tally, disturb: Disturbance, played: Played, version: str) -> None:
    """One round, with clients from before its beginning until after its end."""
    url, began = address(played), monotonic()
    with Clients(url, CLIENTS, PAUSE) as clients, StreamClients(url, STREAMS, PAUSE) as streams:
        eventually("clients get answers", lambda: clients.total > 100, 120, lambda: str(clients.answers))
        disturb(played, clients, version)
        asked = clients.total
        eventually("requests go on", lambda: clients.total > asked + 100, 120, lambda: str(clients.answers))
        seconds = monotonic() - began
    tally.take(clients, streams, seconds)
