"""The promise that a failure is told by its cause: eight injected faults, each with its rank, pod, and reason."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from cluster.faults.gangs import KILLABLE, PYTHON, bundled, scripted
from cluster.faults.promise import Bench, Promise
from cluster.kubernetes_api import Object, eventually
from cluster.objects import Played
from cluster.ranks import kill_a_rank, wait_for_step

RANKS = (0, 1)
_TABLE = "clicked,user\\n1,a\\nmany,b\\n0,c\\n"


@dataclass(frozen=True)
class Fault:
    """How a gang is broken, and what `status.lastFailure` must say of it."""

    name: str
    make: Callable[[Bench, str, int], Object]
    """The training, from its name and the victim's rank."""
    expected: dict[str, Any]
    says: str = ""
    """A part of the message."""
    inject: Callable[[Bench, Played, int], None] = lambda *_: None
    """From outside, once it runs; nothing where the victim breaks by itself."""
    all_ranks: bool = False
    """Whether every rank fails alike, so that each of them is the right one."""
    one_node: bool = False

    def promise(self) -> Promise:
        return Promise(self.name, partial(play, self))


def play(fault: Fault, bench: Bench, name: str, chance: random.Random) -> list[str]:
    """One round: the violations, each with what was told instead."""
    victim = 0 if fault.one_node else chance.choice(RANKS)
    played = Played.create(bench.api, bench.namespace, fault.make(bench, name, victim))
    try:
        fault.inject(bench, played, victim)
        told = eventually("a failure is told", lambda: played.status.get("lastFailure"), 180, played.told)
        return list(_violations(fault, name, victim, told))
    finally:
        played.delete()


def _violations(fault: Fault, name: str, victim: int, told: Object) -> list[str]:
    ranks = RANKS if fault.all_ranks else (victim,)
    expected = dict(fault.expected)
    wrong = [f"{k} is {told.get(k)!r}, expected {v!r}" for k, v in expected.items() if told.get(k) != v]
    if told.get("rank") not in ranks:
        wrong.append(f"rank is {told.get('rank')}, expected {victim}")
    if told.get("podName") != f"{name}-1-{told.get('rank')}":
        wrong.append(f"podName is {told.get('podName')!r} for rank {told.get('rank')}")
    if not told.get("nodeName"):
        wrong.append("no nodeName")
    if fault.says not in told.get("message", ""):
        wrong.append(f"message is {told.get('message')!r}, expected {fault.says!r} in it")
    return [f"{violation}; told: {told}" for violation in wrong]


def _scripted(kind: str) -> Callable[[Bench, str, int], Object]:
    return lambda _bench, name, victim: scripted(name, kind, victim)


def _killable(_bench: Bench, name: str, _victim: int) -> Object:
    return bundled(name, "image-classification", "example://digits", KILLABLE)


def _kill(bench: Bench, played: Played, victim: int) -> None:
    played.running()
    assert wait_for_step(bench.namespace, f"{played.name}-1-0", 2), "it ended before it was killed"
    assert kill_a_rank(bench.namespace, f"{played.name}-1-{victim}"), "no rank was there to be killed"


def _evict(bench: Bench, played: Played, victim: int) -> None:
    played.running()
    bench.api.evict(bench.namespace, f"{played.name}-1-{victim}")


def _too_small_a_batch(_bench: Bench, name: str, _victim: int) -> Object:
    """What no schema of the parameters alone can see: too few samples for so many ranks."""
    return bundled(name, "image-classification", "example://digits", {"batchSize": 1})


def _bad_table(bench: Bench, name: str, _victim: int) -> Object:
    """A claim with a table whose second row has a word where the answer should be."""
    claim = f"{name}-data"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    kind = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim}, "spec": spec}
    bench.api.create(kind, bench.namespace)
    bench.api.create(_writer(claim, f"open('/data/clicks.csv', 'w').write('{_TABLE}')"), bench.namespace)

    def written() -> bool:
        return bool(bench.api.get("Pod", bench.namespace, claim)["status"].get("phase") == "Succeeded")

    eventually("the table is written", written)
    uri = f"pvc://{claim}/clicks.csv"
    return bundled(name, "recommendation", uri, {"label": "clicked", "categorical": {"user": 16}}, nodes=1)


def _writer(claim: str, script: str) -> Object:
    """A pod that writes on a claim and ends."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    user = {"runAsNonRoot": True, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": "writer",
        "image": PYTHON,
        "command": ["python", "-c", script],
        "securityContext": restricted,
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
    spec = {"restartPolicy": "Never", "securityContext": user, "containers": [container], "volumes": [volume]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": claim}, "spec": spec}


_CONFIGURATION = {"reason": "Error", "rule": "configuration", "action": "Fail"}
_FATAL = {"rule": "maxRestarts", "action": "Fail"}
FAULTS = (
    Fault(
        "exit 1",
        _scripted("exit"),
        {"reason": "Error", "exitCode": 1, "exceptionType": "ValueError", **_FATAL},
        "column price is not in the table",
    ),
    Fault("SIGKILL", _killable, {"reason": "Signal", "signal": "SIGKILL", **_FATAL}, inject=_kill),
    Fault("SIGSEGV", _scripted("segfault"), {"reason": "Signal", "signal": "SIGSEGV", "exitCode": 139, **_FATAL}),
    Fault("out of memory", _scripted("memory"), {"reason": "OOMKilled", "exitCode": 137, **_FATAL}),
    Fault(
        "bad parameter",
        _too_small_a_batch,
        {"exitCode": 64, "exceptionType": "ConfigError", **_CONFIGURATION},
        "parameters.batchSize: 1 samples are too few",
        all_ranks=True,
    ),
    Fault(
        "lost peer",
        _scripted("peer"),
        {"reason": "Error", "exitCode": 1, "exceptionType": "RuntimeError", **_FATAL},
        "the device fell off the bus",
    ),
    Fault(
        "eviction",
        _scripted("none"),
        {"reason": "Evicted", "rule": "infrastructure", "action": "RestartAndIgnoreMaxRestarts"},
        inject=_evict,
    ),
    Fault(
        "bad data",
        _bad_table,
        {"exitCode": 65, "exceptionType": "DataError", **_CONFIGURATION},
        "clicks.csv:3: column 'clicked' must be true or false",
        one_node=True,
    ),
)
