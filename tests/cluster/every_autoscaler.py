"""A service that the real KEDA scales by what a Prometheus tells, for `make test-keda`.

Not among the tests that always run: KEDA takes many minutes to build.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
from cluster.disturbances import servers
from cluster.foreign import run
from cluster.keda import keda
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.prometheus import prometheus
from cluster.services import Clients, address, make_claim, small_service, write_runtimes
from cluster.small_server import TOKENS_OF_A_REQUEST

CLIENTS, SECONDS_EACH = 12, 0.5
RATE = CLIENTS / SECONDS_EACH
THIRDS = {"concurrency": CLIENTS / 3, "rps": RATE / 3, "tokens": TOKENS_OF_A_REQUEST * RATE / 3}
"""What each of three servers has of the clients' load, by metric. It is less than a third of the rates: a request takes
a little longer than the server sleeps."""


def scaling(metric: str, **changes: object) -> Object:
    bounds = {"minReplicas": 1, "maxReplicas": 3, "scaleDownDelaySeconds": 5}
    return {"backend": "KEDA", "metric": metric, "target": THIRDS[metric], **bounds, **changes}


def timed(what: str, played: Played, count: int) -> None:
    began = monotonic()
    servers(played, count)
    sys.stdout.write(f"\n{what}: {count} servers after {monotonic() - began:.0f} s\n")


def scaled_object(played: Played) -> str:
    return run("get", "scaledobject", played.name, "--namespace", played.namespace, "--ignore-not-found")


def autoscaler(played: Played) -> list[str]:
    """The servers that the autoscaler wants which KEDA makes of a ScaledObject, and its uid."""
    fields = "jsonpath={.status.desiredReplicas} {.metadata.uid}"
    return run("get", "hpa", f"keda-hpa-{played.name}", "--namespace", played.namespace, "--output", fields).split()


def told(directory: Path) -> str:
    return "\n".join((directory / name).read_text()[-2500:] for name in ("keda.log", "adapter.log"))


@pytest.mark.timeout(7200)
def test_load_makes_more_servers_and_its_end_fewer(laboratory: Laboratory, tmp_path: Path) -> None:
    namespace = laboratory.make_namespace("keda")
    make_claim(laboratory, namespace)
    runtimes = write_runtimes(tmp_path)
    with keda(namespace, tmp_path), prometheus(laboratory.api, namespace, tmp_path) as url:
        options = ("--leader-election", "false", "--runtimes", str(runtimes), "--prometheus-url", url)
        operator, _ = laboratory.start_operator([namespace], *options)
        slow = {"VERSION": "1", "DELAY": str(SECONDS_EACH)}
        played = Played.create(
            laboratory.api, namespace, small_service("busy", runtime="series", scaling=scaling("concurrency"), env=slow)
        )
        played.wait("ready", 120, phase="Ready")
        for metric in THIRDS:
            played.edit(scaling=scaling(metric))
            played.wait_reason("ScalingReady", "ScaledObjectReady")
            with Clients(address(played), CLIENTS, 0.0) as clients:
                timed(f"{metric}, of which three servers have {THIRDS[metric]:g} each", played, 3)
                wanted, uid = autoscaler(played)
                assert wanted == "3", told(tmp_path)
            assert set(clients.answers) == {"1"}, clients.failures
            timed("no requests", played, 1)
            assert autoscaler(played)[1] == uid, "the same all the time"
        run("delete", "scaledobject", "busy", "--namespace", namespace)
        eventually("there is another", lambda: scaled_object(played), 60, partial(told, tmp_path))
        operator.stop()
        played.edit(scaling=scaling("concurrency", backend="Internal"))
        operator.start()
        eventually("nobody else scales it", lambda: not scaled_object(played), 90, operator.tail)
        played.delete()
        played.wait_gone()
