"""A service that others scale: the real KEDA by what a Prometheus tells, and KEDA and the cluster's own autoscaler by
what the real metrics-server does; for `make test-autoscalers`.

Not among the tests that always run: KEDA takes many minutes to build.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
from cluster.disturbances import servers
from cluster.foreign import run
from cluster.keda import keda
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import Laboratory
from cluster.metrics_server import metrics_server
from cluster.objects import Played
from cluster.prometheus import prometheus
from cluster.services import (
    Clients,
    address,
    make_claim,
    operator_of_small_servers,
    small_service,
    write_runtimes,
)
from cluster.small_server import TOKENS_OF_A_REQUEST

CLIENTS, SECONDS_EACH = 12, 0.5
RATE = CLIENTS / SECONDS_EACH
THIRDS = {"concurrency": CLIENTS / 3, "rps": RATE / 3, "tokens": TOKENS_OF_A_REQUEST * RATE / 3}
"""What each of three servers has of the clients' load, by metric. It is less than a third of the rates: a request takes
a little longer than the server sleeps."""


BOUNDS = {"minReplicas": 1, "maxReplicas": 3, "scaleDownDelaySeconds": 5}
BUSY_CLIENTS, PERCENT_OF_REQUEST = 4, 100
"""Each sends at once again, and a server has the target at a hundredth of a core: they are busy, all three."""


def scaling(metric: str) -> Object:
    return {"backend": "KEDA", "metric": metric, "target": THIRDS[metric], **BOUNDS}


def timed(what: str, played: Played, count: int) -> None:
    began = monotonic()
    servers(played, count)
    sys.stdout.write(f"\n{what}: {count} servers after {monotonic() - began:.0f} s\n")


def scaled_object(played: Played) -> str:
    return run("get", "scaledobject", played.name, "--namespace", played.namespace, "--ignore-not-found")


def autoscaler(played: Played, name: str) -> list[str]:
    """The servers that a HorizontalPodAutoscaler wants, and its uid."""
    fields = "jsonpath={.status.desiredReplicas} {.metadata.uid}"
    return run("get", "hpa", name, "--namespace", played.namespace, "--output", fields).split()


def told(directory: Path) -> str:
    return "\n".join(log.read_text()[-2500:] for log in sorted(directory.rglob("*.log")))


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
                wanted, uid = autoscaler(played, "keda-hpa-busy")
                assert wanted == "3", told(tmp_path)
            assert set(clients.answers) == {"1"}, clients.failures
            timed("no requests", played, 1)
            assert autoscaler(played, "keda-hpa-busy")[1] == uid, "the same all the time"
        run("delete", "scaledobject", "busy", "--namespace", namespace)
        eventually("there is another", lambda: scaled_object(played), 60, partial(told, tmp_path))
        operator.stop()
        played.edit(scaling={**scaling("concurrency"), "backend": "Internal"})
        operator.start()
        eventually("nobody else scales it", lambda: not scaled_object(played), 90, operator.tail)
        played.delete()
        played.wait_gone()


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("backend", "name", "word"),
    [("HPA", "busy", "ValidMetricFound"), ("KEDA", "keda-hpa-busy", "ScaledObjectReady")],
    ids=["HPA", "KEDA"],
)
def test_what_the_servers_use_of_cpu_makes_more_of_them(
    laboratory: Laboratory, tmp_path: Path, backend: str, name: str, word: str
) -> None:
    by_cpu = {"backend": backend, "metric": "cpu", "target": PERCENT_OF_REQUEST, **BOUNDS}
    operator, namespace = operator_of_small_servers(laboratory, f"cpu-{backend.lower()}")
    with ExitStack() as stack:
        if backend == "KEDA":
            stack.enter_context(keda(namespace, tmp_path))
        played = Played.create(laboratory.api, namespace, small_service("busy", scaling=by_cpu))
        played.wait("ready", 120, phase="Ready")
        if backend == "HPA":
            played.wait_reason("ScalingReady", "FailedGetResourceMetric")
        directory = tmp_path / "metrics"
        directory.mkdir()
        stack.enter_context(metrics_server(namespace, directory))
        played.wait_reason("ScalingReady", word, 180)
        with Clients(address(played), BUSY_CLIENTS, 0.0) as clients:
            timed(f"{backend}, busy servers", played, 3)
            assert autoscaler(played, name)[0] == "3", told(directory)
        assert set(clients.answers) == {"1"}, clients.failures
        timed("no requests", played, 1)
    assert operator.running
