"""A cluster of plain dicts for pure tests: plans are carried out, pods do as told, and every step becomes a line.

No API server is imitated: there is no validation, no conflict and no defaulting here. What needs those is tested on
a real one.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from modelyard_operator.load import Load
from modelyard_operator.objects import API_VERSION, covers
from modelyard_operator.plan import Children, Object, Plan, Report

START = datetime(2026, 1, 1, tzinfo=UTC)
SHOWN = (
    "attempt",
    "restarts",
    "restartsCountTowardsMax",
    "noProgressRestarts",
    "memoryPerNode",
    "latestReadyRevision",
)
"""Fields of a status that a trace shows when they change."""
EXTRAS = ("Ingress", "HTTPRoute", "HorizontalPodAutoscaler", "ScaledObject", "PodDisruptionBudget")
TRACES = Path(__file__).parent / "operator" / "traces"


class World:
    """One parent, its children and a clock. `settle` reconciles until nothing changes any more."""

    def __init__(self, kind: str, spec: Mapping[str, Any], sync: Callable[[Object, Children, datetime], Plan]) -> None:
        self.now = START
        self.parent: Object = {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {
                "name": "demo",
                "namespace": "ns",
                "uid": "uid-demo",
                "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": _stamp(START),
            },
            "spec": copy.deepcopy(dict(spec)),
        }
        self.objects: dict[tuple[str, str], Object] = {}
        self.report: Report | None = None
        self.training: Object | None = None
        self.load: Load | None = None
        self.held_claims: tuple[Object, ...] = ()
        self.refusals: dict[str, str] = {}
        self.absent: set[str] = set()
        self.trace: list[str] = []
        self._sync = sync
        self._uids = 0

    @property
    def status(self) -> Object:
        return self.parent.get("status") or {}

    def condition(self, type_: str) -> Object:
        return next(c for c in self.status["conditions"] if c["type"] == type_)

    def edit(self, **fields: Any) -> None:
        """The user changes fields of the spec: a new generation."""
        self.parent["spec"] |= fields
        self.parent["metadata"]["generation"] += 1
        self.trace.append(f"-- user: {json.dumps(fields)}")

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def children(self) -> Children:
        def of(kind: str) -> tuple[Object, ...]:
            return tuple(obj for (k, _), obj in sorted(self.objects.items()) if k == kind)

        return Children(
            pods=of("Pod"),
            services=of("Service"),
            claims=of("PersistentVolumeClaim"),
            deployments=of("Deployment"),
            extras=tuple(o for kind in EXTRAS for o in of(kind)),
            load=self.load,
            held_claims=self.held_claims,
            training=self.training,
            report=self.report,
            refusals=self.refusals,
            absent=frozenset(self.absent),
        )

    def plan(self) -> Plan:
        return self._sync(copy.deepcopy(self.parent), copy.deepcopy(self.children()), self.now)

    def reconcile(self) -> bool:
        """One reconcile, carried out in the operator's order; whether anything changed."""
        plan = self.plan()
        if plan.verify:
            self.absent |= set(plan.verify) - {name for _, name in self.objects}
            return True
        changed = self._children(plan) if not plan.decided else False
        if plan.status is not None and plan.status != self.parent.get("status"):
            changed = True
            self._log_status(plan)
            self.parent["status"] = json.loads(json.dumps(plan.status))
        return changed

    def settle(self, limit: int = 20) -> int:
        """Reconcile until quiet; fails where it never is. Returns how many reconciles it took."""
        for count in range(limit):
            if not self.reconcile():
                return count
        raise AssertionError(f"not quiet after {limit} reconciles:\n" + "\n".join(self.trace[-20:]))

    def _children(self, plan: Plan) -> bool:
        changed = False
        for child in (*plan.apply, *plan.create):
            place = (child["kind"], child["metadata"]["name"])
            if place in self.objects:
                merged = _merged(self.objects[place], child)
                changed |= merged != self.objects[place]
                self.objects[place] = merged
                continue
            self._uids += 1
            obj = copy.deepcopy(child)
            obj["metadata"] |= {"uid": f"uid-{self._uids}", "creationTimestamp": _stamp(self.now)}
            if child["kind"] == "Pod":
                obj["spec"] = {}
                obj["status"] = {"phase": "Pending"}
            self.objects[place] = obj
            self.trace.append(f"create {place[0]} {place[1]}")
            changed = True
        for patch in plan.patch:
            place = (patch.kind, patch.name)
            if place in self.objects and not covers(patch.body, self.objects[place]):
                self.objects[place] = _merged(self.objects[place], patch.body)
                self.trace.append(f"patch {place[0]} {place[1]} {json.dumps(patch.body)}")
                changed = True
        for deletion in plan.delete:
            place = (deletion.kind, deletion.name)
            if place in self.objects and self.objects[place]["metadata"]["uid"] == deletion.uid:
                del self.objects[place]
                grace = f" grace {deletion.grace_seconds}" if deletion.grace_seconds is not None else ""
                self.trace.append(f"delete {place[0]} {place[1]}{grace}")
                changed = True
        if plan.delete_parent:
            self.trace.append("delete parent")
        return changed

    def _log_status(self, plan: Plan) -> None:
        assert plan.status is not None
        kind = "decide" if plan.decided else "status"
        before = self.status
        shown = [str(plan.status["phase"])]
        for name in (
            "attempt",
            "restarts",
            "restartsCountTowardsMax",
            "noProgressRestarts",
            "memoryPerNode",
            "latestReadyRevision",
        ):
            if plan.status.get(name) != before.get(name):
                shown.append(f"{name}={plan.status.get(name)}")
        self.trace.append(f"{kind} {' '.join(shown)}" + "".join(f"; event {e.reason}" for e in plan.events))

    def pod(self, name: str, *, phase: str, **state: Any) -> None:
        """A pod's kubelet reports: `exit_code`, `message` (a dict becomes JSON), `reason`, `signal` as terminated."""
        pod = self.objects["Pod", name]
        pod["spec"]["nodeName"] = "node-a"
        status: Object = {"phase": phase}
        if phase == "Running":
            status["containerStatuses"] = [{"name": "trainer", "ready": True, "state": {"running": {}}}]
        if phase in ("Succeeded", "Failed"):
            message = state.get("message", "")
            terminated = {
                "exitCode": state.get("exit_code", 0 if phase == "Succeeded" else 1),
                "reason": state.get("reason", "Completed" if phase == "Succeeded" else "Error"),
                "message": message if isinstance(message, str) else json.dumps(message),
                "finishedAt": _stamp(self.now),
            }
            status["containerStatuses"] = [{"name": "trainer", "ready": False, "state": {"terminated": terminated}}]
        pod["status"] = status | state.get("status", {})
        self.trace.append(f"-- pod {name}: {phase}" + (f" {state['exit_code']}" if "exit_code" in state else ""))

    def placed(self, *names: str) -> None:
        """The scheduler finds a place for these pods; for all others that have none it finds none."""
        for (kind, name), pod in self.objects.items():
            if kind != "Pod" or pod["spec"].get("nodeName"):
                continue
            condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": _stamp(self.now)}
            if name in names:
                pod["spec"]["nodeName"] = "node-a"
            else:
                before = (pod["status"].get("conditions") or [condition])[0]
                condition |= {"status": "False", "reason": "Unschedulable", "message": "no room"}
                condition["lastTransitionTime"] = before["lastTransitionTime"]
            pod["status"]["conditions"] = [condition]
        self.trace.append(f"-- scheduler: a place for {', '.join(names) or 'none'}")

    def gang(self, phase: str, **state: Any) -> None:
        """All pods there are report alike."""
        for kind, name in sorted(self.objects):
            if kind == "Pod":
                self.pod(name, phase=phase, **state)

    def lose(self, kind: str, name: str) -> None:
        del self.objects[kind, name]
        self.trace.append(f"-- lost: {kind} {name}")

    def reported(self, step: int, total: int = 100, loss: str = "0.5", **told: Any) -> None:
        """Rank 0 of the current attempt posts progress; `told` are further fields of the report."""
        attempt = int(self.status.get("attempt") or 1)
        before = self.report if self.report and self.report.attempt == attempt else None
        fields: dict[str, Any] = {
            "attempt": attempt,
            "received": self.now,
            "first_received": before.first_received if before else self.now,
            "advanced": self.now,
            "trainer_status": {
                "progressPercentage": 100 * step // total,
                "estimatedRemainingSeconds": total - step,
                "metrics": [{"name": "loss", "value": loss}],
            },
            "progress": {"step": step, "totalSteps": total},
        }
        self.report = Report(**(fields | told))

    def heard(self, **told: Any) -> None:
        """Rank 0 posts again, and nothing has moved."""
        assert self.report is not None
        self.report = replace(self.report, received=self.now, **told)


def assert_golden(name: str, world: World, condition: str) -> None:
    """The world's trace and its end, by one condition, are those of `traces/NAME.golden`; UPDATE_GOLDEN writes it."""
    end = world.condition(condition)
    text = "\n".join([*world.trace, f"== {world.status['phase']}; {end['reason']}: {end['message']}"]) + "\n"
    path = TRACES / f"{name}.golden"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, Mapping):
        whole = ("selector",)  # as server-side apply leaves it: what is not named any more is gone
        return {**old, **{k: copy.deepcopy(v) if k in whole else _merged(old.get(k), v) for k, v in new.items()}}
    return copy.deepcopy(new)
