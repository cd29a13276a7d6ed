"""What others decide of a service's children, on the real API server: a quota, and an autoscaler without figures."""

from __future__ import annotations

import time

import pytest
from cluster.kubernetes_api import Object
from cluster.laboratory import Laboratory, condition
from cluster.objects import Played
from cluster.services import operator_of_small_servers, small_service

QUOTA: Object = {
    "apiVersion": "v1",
    "kind": "ResourceQuota",
    "metadata": {"name": "none"},
    "spec": {"hard": {"count/deployments.apps": "0"}},
}
LOOKED_AT_SECONDS = 20


@pytest.mark.side_by_side(seconds=60)
def test_a_refused_child_is_tried_by_its_own_clock_and_not_at_every_look(laboratory: Laboratory) -> None:
    """A service that scales by itself is looked at every second."""
    _, namespace = operator_of_small_servers(laboratory, "refused")
    laboratory.api.create(QUOTA, namespace)
    log = laboratory.audit_from_now()
    played = Played.create(laboratory.api, namespace, small_service("refused", scaling={"maxReplicas": 2}))
    observed = played.wait_reason("Ready", "ChildRefused")
    told = next(c["message"] for c in observed["status"]["conditions"] if c["type"] == "Stalled")
    assert "exceeded quota: none" in told
    time.sleep(LOOKED_AT_SECONDS)
    tries = [e for e in log.entries(namespace) if (e.verb, e.resource, e.code) == ("create", "deployments", 403)]
    assert 4 <= len(tries) <= 7, "1 s, 2, 4 and 8 between them, each cut by up to a half"
    laboratory.api.delete("ResourceQuota", namespace, "none")
    played.wait("ready", 120, phase="Ready")
    assert condition(played.observed, "Stalled") == "False"


@pytest.mark.side_by_side(seconds=60)
def test_an_autoscaler_that_has_no_figures_is_quoted(laboratory: Laboratory) -> None:
    """The cluster has no metrics of cpu."""
    _, namespace = operator_of_small_servers(laboratory, "figures")
    scaling = {"backend": "HPA", "metric": "cpu", "target": 70, "minReplicas": 1, "maxReplicas": 2}
    played = Played.create(laboratory.api, namespace, small_service("figures", scaling=scaling))
    observed = played.wait_reason("ScalingReady", "FailedGetResourceMetric")
    assert condition(observed, "ScalingReady") == "False"
    played.wait("ready", 120, phase="Ready")
