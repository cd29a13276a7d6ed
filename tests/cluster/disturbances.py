"""What is done to a service while clients ask it: another revision, other numbers of servers, a drain, a death.

Every function returns when the service has come to rest again.
"""

from __future__ import annotations

import http.client
import time

from cluster.kubernetes_api import Object, Refused, eventually
from cluster.laboratory import condition
from cluster.objects import Played
from cluster.services import Clients, variables
from cluster.small_server import DIE

TOO_MANY_REQUESTS = 429


def become(played: Played, **values: str) -> str:
    """Begin another revision; returns the one that serves."""
    serving = str(played.status["latestReadyRevision"])
    played.edit(predictor={"env": variables(**values)})
    return serving


def answered(played: Played, clients: Clients, version: str, count: int) -> None:
    eventually(f"version {version} answers", lambda: clients.answers[version] > count, 180, played.told)


def servers(played: Played, count: int) -> None:
    """So many are ready, and no other pod is left of the service, not even one that drains."""

    def there() -> bool:
        pods = played.children("Pod")
        return len(pods) == count == played.status.get("readyReplicas") and all(map(is_ready, pods))

    eventually(f"{count} servers and no other pod", there, 240, played.told)


def is_ready(pod: Object) -> bool:
    return condition(pod, "Ready") == "True" and not pod["metadata"].get("deletionTimestamp")


def rolled_out(played: Played, clients: Clients, version: str) -> None:
    """Another revision answers alone."""
    count = int(played.observed["spec"].get("replicas", 1))
    become(played, VERSION=version)
    answered(played, clients, version, 50)
    servers(played, count)


def scaled(played: Played, *numbers: int) -> None:
    for number in numbers:
        played.edit(replicas=number)
        servers(played, number)


def drained(played: Played) -> None:
    """Evict every pod as `kubectl drain` does: at once, and again where a disruption budget says no."""
    pods = [pod["metadata"]["name"] for pod in played.children("Pod")]
    left, due = list(pods), time.monotonic() + 240
    while left and time.monotonic() < due:
        left = [name for name in left if not _evicted(played, name)]
        time.sleep(0.5)
    assert not left, f"{left} could not be evicted"
    servers(played, len(pods))


def died(played: Played) -> None:
    """A server ends at once, as by SIGKILL: with everything that it had taken, and no word to anybody."""
    pods = played.children("Pod")
    name = pods[0]["metadata"]["name"]
    before = _restarts(played, name)
    connection = http.client.HTTPConnection(pods[0]["status"]["podIP"], 8080, timeout=30)
    connection.request("POST", DIE)
    try:
        connection.getresponse()
    except ConnectionError:
        pass
    else:
        raise AssertionError("it answered, so it lives")
    finally:
        connection.close()
    eventually("it is started again", lambda: _restarts(played, name) > before, 400, played.told)
    servers(played, len(pods))


def _restarts(played: Played, pod: str) -> int:
    told = played.api.get("Pod", played.namespace, pod)["status"].get("containerStatuses") or ()
    return sum(container["restartCount"] for container in told)


def _evicted(played: Played, pod: str) -> bool:
    try:
        played.api.evict(played.namespace, pod)
    except Refused as refused:
        if refused.code != TOO_MANY_REQUESTS:
            raise
        return False
    return True
