"""How fast the operator brings N ModelTrainings to Running, beside N bare pods: `make bench-operator N=1000`.

On fake nodes (kwok) of the local cluster, interleaved (pods, trainings, pods, trainings, …), each burst in a namespace
of its own: the same loader with 16 keep-alive connections creates N objects at once, a raw watch notes when the status
of each says Running, the API server's audit log counts who wrote what, then all are deleted by one request. The bare
pods are the floor: API server, scheduler and kwok alone. The operator is started for each of its bursts as a process
of its own, as it is installed (lease, status server, Events), on the burst's namespace only.

Prints JSON lines {"bench", "unit", "ours", "peer", "theirs", "ratio", "rounds", …}: medians over the rounds; a ratio
above 1 says that ours is better. Against bare pods that cannot be: a ratio of 0.5 is twice the floor. A floor of 18 s
for 1000 pods is the scheduler's own rate limit and not the machine: see the README beside this file.

For reference, other people's operators against the same floor, measured on another day on a machine with 2 cores with
the same kind of nodes and loader, N=1000 of one node each, as shipped: Kubeflow Trainer 2.3 with JobSet 0.12 98.0 s and
19.1 mutating requests each, training-operator 1.8.1 144.6 s and 12.0, bare pods 10.0 s and 4.0 (9.8 and 14 times the
floor). They are not run here and not printed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import secrets
import signal
import statistics
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bench.audit_count import AuditCount
from bench.burst import Burst, Times
from bench.measured_operator import MeasuredOperator
from cluster.definitions import apply_definitions
from cluster.kubernetes_api import KubernetesApi, Object, chosen_access, eventually
from localcluster.fakes import kwok_nodes, set_kwok_nodes
from localcluster.layout import Layout
from localcluster.progress import step
from ports import free_port

PODS, TRAININGS = "Pod", "ModelTraining"
PODS_PER_NODE = 100
CLAIM = "shared"
IMAGE = "example/pause:1"  # fake nodes pull nothing
ON_KWOK: Object = {
    "nodeSelector": {"type": "kwok"},
    "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists", "effect": "NoSchedule"}],
}


UNITS = {
    "until all run": "s",
    "one object, p50": "s",
    "one object, p99": "s",
    "mutating requests an object": "requests",
    "Events an object": "requests",
    "delete all": "s",
    "operator CPU until all run": "s",
    "operator CPU of its whole life": "s",
    "operator peak memory": "MB",
    "reconciles a training until all run": "reconciles",
}
SECURITY: Object = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}


@dataclass(frozen=True)
class Result:
    """The figures of one burst."""

    figures: dict[str, float]
    """By name, see UNITS."""
    writes: Counter[str]
    """`verb resource` -> requests of everybody until all objects ran."""


def make_pod(index: int) -> Object:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {"name": "trainer", "image": IMAGE, "securityContext": security}
    return {
        "apiVersion": "v1",
        "kind": PODS,
        "metadata": {"name": f"bench-{index}"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": SECURITY,
            "containers": [container],
            **ON_KWOK,
        },
    }


def make_training(index: int) -> Object:
    return {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": TRAININGS,
        "metadata": {"name": f"bench-{index}"},
        "spec": {
            "trainer": {"image": IMAGE},
            "dataset": {"uri": "example://digits"},
            "output": {"uri": f"pvc://{CLAIM}/bench-{index}"},
            "pod": ON_KWOK,
        },
    }


class Bench:
    """What all bursts share; `close` leaves the cluster as it was."""

    def __init__(self, count: int, patience: float) -> None:
        self._count = count
        self._patience = patience
        self._layout = Layout.from_environment()
        self._access = chosen_access()
        self._api = KubernetesApi(self._access)
        self._audit_log = Path(os.environ.get("MODELYARD_AUDIT_LOG") or self._layout.audit_log)
        self._namespaces: list[str] = []
        self._operators: list[MeasuredOperator] = []
        self._nodes_before = len(kwok_nodes(self._layout))
        self._directory = tempfile.TemporaryDirectory(prefix="modelyard-bench-")

    def prepare(self) -> None:
        """Fake nodes enough for all pods."""
        apply_definitions()
        wanted = max(2, math.ceil(self._count / PODS_PER_NODE))
        if wanted > self._nodes_before:
            set_kwok_nodes(self._layout, wanted)

    async def pods(self) -> Result:
        """A burst of bare pods."""
        return await self._burst(self._make_namespace(), None)

    async def trainings(self) -> Result:
        """A burst of ModelTrainings, and the operator that works them."""
        namespace = self._make_namespace()
        self._make_claim(namespace)
        options = ("--status-url", f"https://modelyard-status.{namespace}.svc", "--status-port", str(free_port()))
        log = Path(self._directory.name) / f"{namespace}.log"
        operator = MeasuredOperator(self._layout.kubeconfig, [namespace], log, *options)
        self._operators.append(operator)
        operator.start()
        try:
            await asyncio.to_thread(operator.wait_leading)
            return await self._burst(namespace, operator)
        finally:
            operator.kill()

    async def _burst(self, namespace: str, operator: MeasuredOperator | None) -> Result:
        kind = TRAININGS if operator else PODS
        audit = AuditCount(self._audit_log, namespace)
        try:
            async with Burst(self._access, namespace, self._patience) as burst:
                for watched in dict.fromkeys((PODS, kind)):
                    await burst.watch(watched)
                began = operator.cpu_seconds if operator else 0.0
                times = await burst.create(kind, self._count, make_training if operator else make_pod)
                figures = self._own_figures(operator, began) if operator else {}
                writes = await asyncio.to_thread(audit.settle)
                figures["delete all"] = await burst.delete(kind)
        finally:
            audit.close()
        if operator:
            figures["operator CPU of its whole life"] = operator.cpu_seconds
            figures["operator peak memory"] = operator.peak_megabytes
        return Result(figures | self._figures(times, writes), writes)

    def _own_figures(self, operator: MeasuredOperator, began: float) -> dict[str, float]:
        return {
            "operator CPU until all run": operator.cpu_seconds - began,
            "reconciles a training until all run": operator.series("modelyard_reconcile_seconds_count") / self._count,
        }

    def _figures(self, times: Times, writes: Counter[str]) -> dict[str, float]:
        events = sum(count for what, count in writes.items() if what.endswith(" events"))
        return {
            "until all run": times.total,
            "one object, p50": times.percentile(50),
            "one object, p99": times.percentile(99),
            "mutating requests an object": (writes.total() - events) / self._count,
            "Events an object": events / self._count,
        }

    def _make_namespace(self) -> str:
        """A namespace in which every pod must pass the restricted profile, ready for pods."""
        name = f"modelyard-bench-{secrets.token_hex(3)}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self._namespaces.append(name)
        self._api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        eventually(f"service account in {name}", lambda: self._api.find("ServiceAccount", name, "default"))
        return name

    def _make_claim(self, namespace: str) -> None:
        """One claim for all trainings: none is made for each."""
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
        self._api.create(claim, namespace)

        def bound() -> bool:
            found = self._api.get("PersistentVolumeClaim", namespace, CLAIM)
            return bool((found.get("status") or {}).get("phase") == "Bound")

        eventually(f"claim in {namespace} is bound", bound)

    def close(self) -> None:
        """End the operators, remove the namespaces, and the fake nodes that were added unless others use them."""
        for operator in self._operators:
            operator.kill() if operator.running else None
        for namespace in self._namespaces:
            self._api.delete("Namespace", None, namespace)
        for namespace in self._namespaces:
            gone = lambda name=namespace: self._api.find("Namespace", None, name) is None  # noqa: E731
            eventually(f"namespace {namespace} is gone", gone, self._patience)
        self._directory.cleanup()
        added = set(kwok_nodes(self._layout)) - {f"kwok-{number}" for number in range(self._nodes_before)}
        if added and not any(pod["spec"].get("nodeName") in added for pod in self._api.list(PODS, None)):
            set_kwok_nodes(self._layout, self._nodes_before)


def print_lines(count: int, rounds: list[tuple[Result, Result]]) -> None:
    """One JSON line for each figure, then one for each kind of request."""
    for name, unit in UNITS.items():
        ours = [trainings.figures[name] for _, trainings in rounds]
        theirs = [pods.figures[name] for pods, _ in rounds if name in pods.figures]
        print_line(f"operator N={count}: {name}", unit, ours, theirs)
    for what in sorted({what for pair in rounds for result in pair for what in result.writes}):
        theirs, ours = ([result.writes[what] / count for result in side] for side in zip(*rounds, strict=True))
        print_line(f"operator N={count}: {what}, each object", "requests", ours, theirs)


def print_line(bench: str, unit: str, ours: list[float], theirs: list[float]) -> None:
    """A ratio above 1 says that ours needs less; none where the peer has no such figure or it is zero."""
    mine, other = statistics.median(ours), statistics.median(theirs) if theirs else None
    line = {
        "bench": bench,
        "unit": unit,
        "ours": round(mine, 3),
        "peer": "bare pods" if theirs else None,
        "theirs": None if other is None else round(other, 3),
        "ratio": round(other / mine, 3) if other and mine else None,
        "rounds": {"ours": [round(x, 3) for x in ours], "theirs": [round(x, 3) for x in theirs]},
    }
    print(json.dumps(line), flush=True)


async def run(bench: Bench, rounds: int) -> list[tuple[Result, Result]]:
    """Pods, trainings, pods, trainings, …"""
    results = []
    for number in range(1, rounds + 1):
        with step(f"round {number} of {rounds}: bare pods"):
            pods = await bench.pods()
        with step(f"round {number} of {rounds}: trainings"):
            trainings = await bench.trainings()
        results.append((pods, trainings))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1000, help="objects in a burst (default 1000)")
    parser.add_argument("--rounds", type=int, default=2, help="bursts of each sort (default 2)")
    parser.add_argument(
        "--patience", type=float, default=300, help="seconds until a burst counts as failed (default 300)"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench = Bench(arguments.objects, arguments.patience)
    except (OSError, RuntimeError) as error:
        print(f"no cluster answers ({error}); start one with `make cluster`", file=sys.stderr)
        return 1
    try:
        bench.prepare()
        rounds = asyncio.run(run(bench, arguments.rounds))
    except KeyboardInterrupt:
        print("interrupted; cleaning up", file=sys.stderr)
        return 130
    finally:
        bench.close()
    print_lines(arguments.objects, rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
