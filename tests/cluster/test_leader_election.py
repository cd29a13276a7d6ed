"""Two replicas, one writer: the other takes over soon after the leader died or froze, and never beside it."""

from __future__ import annotations

import signal

import pytest
from cluster.fault_proxy import FaultProxy
from cluster.kubernetes_api import eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played, training
from cluster.operator_process import OperatorProcess, wait_for_end

TAKEOVER_SECONDS = 20
LEASE = "modelyard-operator"


@pytest.mark.side_by_side(seconds=45)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=lambda s: s.name)
def test_the_other_replica_takes_over(laboratory: Laboratory, end: signal.Signals) -> None:
    namespace = laboratory.make_namespace(f"lead-{end.name.lower()}")
    first, second = (start_replica(laboratory, namespace) for _ in range(2))
    played = Played.create(laboratory.api, namespace, training("led", nodes=2))
    played.running()
    assert first[1].writes and not second[1].writes, "the second replica stands by"

    before = holder(laboratory, namespace)
    first[0].send(end)
    laboratory.api.delete("Pod", namespace, "led-1-1", grace_seconds=0)
    eventually("another holds the lease", lambda: holder(laboratory, namespace) not in (before, ""), TAKEOVER_SECONDS)
    played.running(attempt=2)
    if end is signal.SIGSTOP:
        first[0].send(signal.SIGCONT)  # it wakes in the middle of its work and must not write another word
        wait_for_end(first[0], 30)
        Played.create(laboratory.api, namespace, training("later")).running()
    assert first[1].writes[-1].at < second[1].writes[0].at, f"{first[1].writes[-1]} after {second[1].writes[0]}"
    assert second[0].running


def start_replica(laboratory: Laboratory, namespace: str) -> tuple[OperatorProcess, FaultProxy]:
    """The first one started leads: the next is started when it does."""
    operator, proxy = laboratory.make_operator([namespace])
    operator.start()
    operator.wait_ready()
    eventually("somebody leads", lambda: holder(laboratory, namespace) != "", told=operator.tail)
    return operator, proxy


def holder(laboratory: Laboratory, namespace: str) -> str:
    lease = laboratory.api.find("Lease", namespace, LEASE)
    return str(((lease or {}).get("spec") or {}).get("holderIdentity") or "")
