"""What the operator does when the API server is deaf, silent, away or in a bad mood."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cluster.kubernetes_api import Refused, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played, training

RED_SECONDS = 90
AWAY_SECONDS = 25


@pytest.mark.side_by_side(seconds=110)
def test_healthz_turns_red_when_the_watch_of_pods_is_dead_although_lists_work(laboratory: Laboratory) -> None:
    namespace = laboratory.make_namespace("deaf")
    operator, proxy = laboratory.start_operator([namespace])
    Played.create(laboratory.api, namespace, training("watched")).running()
    assert operator.probe("/healthz")[0] == 200
    with busy_pod(laboratory, namespace, "watched-1-0"):
        proxy.faults.deaf = {"pods"}
        began = time.monotonic()
        eventually("/healthz is red", lambda: operator.probe("/healthz")[0] == 503, RED_SECONDS, operator.tail)
        assert "Pod" in operator.probe("/healthz")[1]
    assert time.monotonic() - began <= RED_SECONDS


@pytest.mark.side_by_side(seconds=60)
def test_the_operator_outlives_an_api_server_that_is_away_for_a_while(laboratory: Laboratory) -> None:
    """It may also end, so that the kubelet starts it anew; what it must not do is to stay and do nothing."""
    namespace = laboratory.make_namespace("away")
    operator, proxy = laboratory.start_operator([namespace])
    played = Played.create(laboratory.api, namespace, training("meanwhile", nodes=2))
    played.running()
    proxy.cut()
    laboratory.api.delete("Pod", namespace, "meanwhile-1-0", grace_seconds=0)
    time.sleep(AWAY_SECONDS)
    proxy.mend()

    def goes_on() -> bool:
        if not operator.running:
            assert operator.wait(1) != 0, "it ended as if all was well"
            operator.start()
        return played.status.get("attempt") == 2 and played.status.get("phase") == "Running"

    eventually("the gang is restarted", goes_on, 120, operator.tail)


@pytest.mark.side_by_side(seconds=40)
@pytest.mark.parametrize(("code", "reason"), [(409, "Conflict"), (429, "TooManyRequests"), (500, "InternalError")])
def test_every_third_write_refused_delays_and_changes_nothing(laboratory: Laboratory, code: int, reason: str) -> None:
    namespace = laboratory.make_namespace(f"moody-{code}")
    operator, proxy = laboratory.start_operator([namespace])
    count = 0

    def answer(method: str, path: str) -> tuple[int, str] | None:
        nonlocal count
        if method == "GET" or "/events" in path:
            return None
        count += 1
        return (code, reason) if count % 3 == 1 else None

    proxy.faults.answer = answer
    played = Played.create(laboratory.api, namespace, training("moody", nodes=2))
    played.running()
    played.end(1, 1, 1, "out of luck")
    played.running(attempt=2)
    for rank in (0, 1):
        played.end(2, rank, 0)
    status = played.wait("succeeded", phase="Succeeded")["status"]
    assert (status["attempt"], status["restarts"]) == (2, 1)
    names = [w.created for w in proxy.writes if w.created]
    assert len(names) == len(set(names)), names
    assert operator.running


@contextmanager
def busy_pod(laboratory: Laboratory, namespace: str, name: str) -> Iterator[None]:
    """A pod that changes every few seconds, as every pod does now and then."""
    over = threading.Event()

    def work() -> None:
        count = 0
        while not over.wait(3):
            count += 1
            change = {"metadata": {"annotations": {"example.com/count": str(count)}}}
            try:
                laboratory.api.patch("Pod", namespace, name, change)
            except Refused:
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)
