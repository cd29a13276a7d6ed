"""Writes are counted, whoever makes them: the audit log has them all."""

from __future__ import annotations

import time

import pytest
from cluster.audit_log import AuditLog, Entry
from cluster.kubernetes_api import eventually
from cluster.laboratory import Laboratory
from cluster.lives import CLAIM
from cluster.objects import Played, training

BUDGET = 6
"""The CR, the pod, its binding, its status, the CR's status, and one more."""


@pytest.mark.side_by_side(seconds=15)
def test_a_training_on_one_node_costs_at_most_six_writes_until_it_runs(laboratory: Laboratory) -> None:
    namespace = laboratory.make_namespace("writes")
    laboratory.start_operator([namespace])
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
    laboratory.api.create(claim, namespace)

    def bound() -> bool:
        found = laboratory.api.get("PersistentVolumeClaim", namespace, CLAIM)
        return bool((found.get("status") or {}).get("phase") == "Bound")

    eventually("the claim is bound", bound)
    settled(laboratory.audit_from_now(), namespace)  # the volume controllers say once more that nobody uses it
    audit = laboratory.audit_from_now()
    played = Played.create(laboratory.api, namespace, training("counted", output={"uri": f"pvc://{CLAIM}"}))
    played.running()
    writes = settled(audit, namespace)
    assert 5 <= len(writes) <= BUDGET, "\n".join(map(str, writes))
    ours = [w for w in writes if w.user_agent == "modelyard-operator"]
    assert len(ours) <= 3, "\n".join(map(str, ours))


def settled(audit: AuditLog, namespace: str) -> list[Entry]:
    """The writes in a namespace but Events, when no more have come for two seconds: the log is written behind."""

    def read() -> list[Entry]:
        return [e for e in audit.entries(namespace) if e.mutating and e.resource != "events"]

    seen = read()
    while True:
        time.sleep(2)
        now = read()
        if len(now) == len(seen):
            return now
        seen = now
