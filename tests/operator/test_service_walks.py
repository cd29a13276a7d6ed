"""Any course of a service's life: edits, pauses, canaries, crashes and new models, in whatever order they come.

After each event the service is reconciled until nothing changes any more, and after every single step of that what
users rely on must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from modelyard_operator.load import Traffic
from modelyard_operator.objects import LABEL_COMPONENT, LABEL_REVISION, ROUTER
from operator_worlds import available, crash, measured, routers_follow, training, world
from simulation import World
from walks import walked

FAST, SLOW = {10: 200}, {60: 200}
CANARY = {"strategy": "Canary", "steps": [{"percent": 10, "pauseSeconds": 30}], "analysis": {"minRequests": 50}}
SHADOW = {"strategy": "Shadow", "analysis": {"minRequests": 50, "minAgreement": 0.95}}
ROLLING = {"strategy": "RollingUpdate"}
TO_ZERO = {"minReplicas": 0, "maxReplicas": 2, "target": 4}


def _newest(w: World) -> str | None:
    return w.status.get("latestCreatedRevision")


def newest_crashes(w: World) -> None:
    if (revision := _newest(w)) and ("Deployment", f"demo-{revision}") in w.objects:
        crash(w, revision, 139, "segmentation fault")


def recover(w: World) -> None:
    """No server crashes any more."""
    w.objects = {place: obj for place, obj in w.objects.items() if place[0] != "Pod" or place[1] == "demo-router-x"}


def measure(w: World, latencies: dict[int, int], errors: int = 0) -> None:
    """The routers count two hundred requests for each revision."""
    if w.status.get("traffic") and ("Deployment", "demo-router") in w.objects:
        told = Traffic(requests=200, errors=errors, latencies=latencies)
        measured(w, told, Traffic(requests=200, latencies=FAST), compared=200, agreed=198)


def fixed(w: World) -> None:
    """The number of servers no longer goes by the load."""
    w.parent["spec"].pop("scaling", None)
    w.edit()


def new_model(w: World, digit: str) -> None:
    w.training = training("sha256:" + digit * 64)


EVENTS: dict[str, Callable[[World], Any]] = {
    "servers come": available,
    "servers of the newest come": lambda w: available(w, _newest(w) or "none"),
    "routers come": routers_follow,
    "suspend": lambda w: w.edit(suspend=True),
    "resume": lambda w: w.edit(suspend=False),
    "edit a": lambda w: w.edit(batching={"maxBatchSize": 4}),
    "edit b": lambda w: w.edit(batching={"maxBatchSize": 8}),
    "one server": lambda w: w.edit(replicas=1),
    "three servers": lambda w: w.edit(replicas=3),
    "canary": lambda w: w.edit(rollout=CANARY),
    "shadow": lambda w: w.edit(rollout=SHADOW),
    "rolling": lambda w: w.edit(rollout=ROLLING),
    "to zero": lambda w: w.edit(scaling=TO_ZERO),
    "fixed": fixed,
    "crash": newest_crashes,
    "recover": recover,
    "good figures": lambda w: measure(w, FAST),
    "slow figures": lambda w: measure(w, SLOW),
    "failures": lambda w: measure(w, FAST, errors=50),
    "model 1": lambda w: new_model(w, "1"),
    "model 2": lambda w: new_model(w, "2"),
    "a minute": lambda w: w.wait(60),
}


def _front(w: World) -> str | None:
    """The revision that the Service leads to; None while it leads to routers, or to nobody."""
    found = w.objects.get(("Service", "demo"))
    selector = found["spec"]["selector"] if found is not None else {}
    return None if selector.get(LABEL_COMPONENT) == ROUTER else selector.get(LABEL_REVISION)


def _servers(w: World, revision: str) -> int:
    deployment = w.objects.get(("Deployment", f"demo-{revision}"), {})
    return int((deployment.get("status") or {}).get("availableReplicas") or 0)


def _steps(w: World, walk: list[str]) -> None:
    """Reconcile until quiet; at each step, what is never to happen has not."""
    for _ in range(40):
        front, ready = _front(w), w.status.get("latestReadyRevision")
        went_on = w.reconcile()
        told = "\n".join([*walk, *w.trace[-12:]])
        now = _front(w)
        assert now is None or ("Deployment", f"demo-{now}") in w.objects, f"requests go to nobody:\n{told}"
        if front and now and now != front and _servers(w, front):
            assert _servers(w, now), f"requests go to servers that are not there yet:\n{told}"
        if (proven := w.status.get("latestReadyRevision")) != ready:
            assert _servers(w, str(proven)), f"ready without a server:\n{told}"
        shares = w.status.get("traffic") or []
        assert sum(share["percent"] for share in shares) in (0, 100), told
        if not went_on:
            return
    raise AssertionError("never quiet:\n" + "\n".join([*walk, *w.trace[-20:]]))


@walked
@given(st.lists(st.sampled_from(sorted(EVENTS)), min_size=5, max_size=40))
def test_whatever_happens_requests_go_to_servers_that_have_proven_themselves(walk: list[str]) -> None:
    w = world(model={"source": {"trainingRef": {"name": "digits", "policy": "Follow"}}})
    w.training = training()
    for number, event in enumerate(walk):
        EVENTS[event](w)
        _steps(w, walk[: number + 1])
    w.edit(suspend=False, rollout=ROLLING)
    fixed(w)
    recover(w)
    for _ in range(4):
        _steps(w, walk)
        available(w)
        routers_follow(w)
    _steps(w, walk)
    assert w.status["phase"] == "Ready" and _front(w) == w.status["latestCreatedRevision"], "\n".join(walk)
    assert [name for kind, name in w.objects if kind == "Deployment"] == [f"demo-{_front(w)}"], "\n".join(walk)
