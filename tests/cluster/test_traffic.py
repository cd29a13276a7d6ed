"""What becomes of requests while revisions change and servers come and go: on the real node, with the real router."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from cluster.disturbances import become, drained, rolled_out, scaled, servers
from cluster.kubernetes_api import eventually
from cluster.laboratory import Laboratory, condition, reason
from cluster.objects import Played
from cluster.services import (
    Clients,
    StreamClients,
    address,
    ask_all,
    operator_of_small_servers,
    small_service,
    under_load,
)

STEPS = [{"percent": 20, "pauseSeconds": 4}, {"percent": 50, "pauseSeconds": 4}]
CANARY = {"strategy": "Canary", "steps": STEPS, "analysis": {"minRequests": 40, "maxP99Ratio": 10}}

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def namespace(laboratory: Laboratory) -> Iterator[str]:
    operator, made = operator_of_small_servers(laboratory, "traffic")
    yield made
    operator.kill()


def create(laboratory: Laboratory, namespace: str, name: str, **spec: object) -> Played:
    played = Played.create(laboratory.api, namespace, small_service(name, **spec))  # type: ignore[arg-type]
    played.wait("ready", 120, phase="Ready")
    return played


def verdict(played: Played, wanted: str) -> None:
    def there() -> bool:
        return (played.status.get("canary") or {}).get("verdict") == wanted

    eventually(f"the canary is {wanted}", there, 180, played.told)


def test_a_hundred_clients_of_a_service_without_servers_all_get_an_answer(
    laboratory: Laboratory, namespace: str
) -> None:
    scaling = {"minReplicas": 0, "maxReplicas": 2, "target": 100, "idleSeconds": 4}
    played = Played.create(laboratory.api, namespace, small_service("zero", scaling=scaling))
    played.wait("asleep, perhaps as soon as it was ready", 240, phase="ScaledToZero")
    eventually("no servers", lambda: not [p for p in played.children("Pod") if "router" not in p["metadata"]["name"]])
    assert condition(played.observed, "Ready") == "True"
    codes = asyncio.run(ask_all(address(played), 100, 120))
    assert codes == [200] * 100
    played.wait("asleep again", 180, phase="ScaledToZero")
    played.delete()


def test_a_canary_is_promoted_without_a_lost_request(laboratory: Laboratory, namespace: str) -> None:
    played = create(laboratory, namespace, "good", rollout=CANARY)
    with under_load(played) as clients:
        old = become(played, VERSION="2")
        eventually("the canary gets requests", lambda: clients.answers["2"] > 10, 120, played.told)
        assert len(played.status["traffic"]) == 2
        verdict(played, "Promoted")
        played.wait("ready", 120, phase="Ready")
        eventually("the old revision is gone", lambda: not gone(played, old), 120, played.told)
        before = clients.total
        eventually("the new one answers", lambda: clients.total > before + 40, 60)
    assert set(clients.answers) == {"1", "2"}, clients.failures
    assert played.status["traffic"] == [{"revisionName": played.status["latestReadyRevision"], "percent": 100}]
    played.delete()


def gone(played: Played, revision: str) -> list[str]:
    """What is left of a revision and of routers."""
    names = [d["metadata"]["name"] for d in played.children("Deployment")]
    return [n for n in names if n.endswith((revision, "-router"))]


def routers(played: Played) -> list[str]:
    """Deployments and pods of routers: a pod that drains goes on answering its connections."""
    children = [*played.children("Deployment"), *played.children("Pod")]
    return [c["metadata"]["name"] for c in children if "-router" in c["metadata"]["name"]]


def test_a_canary_that_fails_is_rolled_back(laboratory: Laboratory, namespace: str) -> None:
    played = create(laboratory, namespace, "bad", rollout=CANARY)
    with under_load(played, bearable={"500"}) as clients:
        old = become(played, VERSION="2", FAIL_EVERY="4")
        verdict(played, "RolledBack")
        served = played.wait_reason("Ready", "ServingPreviousRevision")
        assert reason(served, "CanaryReady") == "CanaryRolledBack"
        assert "of its requests failed" in served["status"]["canary"]["message"]
        eventually("no router is left, its pod included", lambda: not routers(played), 120, played.told)
        asked = clients.total
        eventually("what was under way is answered and counted", lambda: clients.total > asked + 60, 60)
        failures, asked = clients.answers["500"], clients.total
        eventually("requests go on", lambda: clients.total > asked + 60, 60)
        assert clients.answers["500"] == failures, "nothing reaches the new revision any more"
    assert clients.failed == 0, clients.failures
    assert served["status"]["traffic"] == [{"revisionName": old, "percent": 100}]
    played.delete()


def test_a_shadow_is_compared_and_promoted(laboratory: Laboratory, namespace: str) -> None:
    analysis = {"minRequests": 30, "minAgreement": 0.9, "maxP99Ratio": 10}
    rollout = {"strategy": "Shadow", "steps": STEPS[:1], "analysis": analysis}
    played = create(laboratory, namespace, "shadow", rollout=rollout, env={"VERSION": "1", "LABEL": "cat"})
    with under_load(played) as clients:
        become(played, VERSION="2", LABEL="dog")
        verdict(played, "RolledBack")
        assert played.status["canary"]["agreement"] == 0
        assert set(clients.answers) == {"1"}, clients.failures
        become(played, VERSION="3", LABEL="cat")
        eventually("promoted", lambda: clients.answers["3"] > 10, 180, played.told)
        assert played.status["canary"]["verdict"] == "Promoted"
    assert set(clients.answers) == {"1", "3"}, clients.failures
    played.delete()


def test_a_rollout_a_drain_and_scaling_lose_nothing(laboratory: Laboratory, namespace: str) -> None:
    """The short form; `make faults-serving` is the long one."""
    played = create(laboratory, namespace, "steady", replicas=2)
    with under_load(played, clients=10, pause=0.02) as clients, StreamClients(address(played), 2, 0.0) as streams:
        rolled_out(played, clients, "2")
        scaled(played, 3)
        drained(played)
        scaled(played, 1)
        assert not played.children("PodDisruptionBudget")
    assert set(clients.answers) == {"1", "2"}, clients.failures
    assert set(streams.answers) == {"1", "2"}, streams.failures
    played.delete()


def test_a_killed_pod_costs_next_to_nothing(laboratory: Laboratory, namespace: str) -> None:
    played = create(laboratory, namespace, "killed", replicas=2)
    with under_load(played, clients=10, pause=0.02) as clients:
        victim = played.children("Pod")[0]["metadata"]["name"]
        laboratory.api.delete("Pod", namespace, victim, grace_seconds=0)
        eventually("it is gone", lambda: victim not in [p["metadata"]["name"] for p in played.children("Pod")], 120)
        servers(played, 2)
        asked = clients.total
        eventually("requests go on", lambda: clients.total > asked + 500, 60)
    assert clients.failed <= clients.total / 100, clients.failures
    played.delete()


def test_load_makes_more_servers_and_its_end_fewer(laboratory: Laboratory, namespace: str) -> None:
    scaling = {"minReplicas": 1, "maxReplicas": 3, "target": 4, "scaleDownDelaySeconds": 2}
    played = create(laboratory, namespace, "busy", scaling=scaling, env={"VERSION": "1", "DELAY": "0.5"})
    with Clients(address(played), 12, 0.0) as clients:
        servers(played, 3)
    assert set(clients.answers) == {"1"}, clients.failures
    servers(played, 1)
    assert played.status["scaling"]["reason"] == "LessLoad"
    played.delete()
