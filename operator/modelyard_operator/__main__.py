"""The operator process: watches, workers, status server, probes, lease; it ends when any of them ends."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import yaml
from aiohttp import web

from modelyard_operator import metrics, settings, tls
from modelyard_operator.cluster import ApiError, Cluster
from modelyard_operator.election import LeaderElection, LeadershipLost
from modelyard_operator.events import EventRecorder
from modelyard_operator.health import Health
from modelyard_operator.measuring import Measuring
from modelyard_operator.objects import LABEL_ROLE, SERVICE, TRAINING
from modelyard_operator.plan import Key, Object
from modelyard_operator.reconcile import Reconciler
from modelyard_operator.schema import InvalidSpec
from modelyard_operator.service.runtime import Installation, parse_profiles
from modelyard_operator.service.sync import sync as sync_service
from modelyard_operator.settings import Settings
from modelyard_operator.status_server import StatusServer
from modelyard_operator.store import Store
from modelyard_operator.training.environment import Surroundings
from modelyard_operator.training.series import series
from modelyard_operator.training.sync import sync as sync_training
from modelyard_operator.watch import Watch
from modelyard_operator.workqueue import WorkQueue

log = logging.getLogger("modelyard_operator")

START_TRIES = 30


class InvalidProfiles(Exception):
    """The file of runtime profiles cannot be used."""


def main() -> None:
    chosen = settings.parse(sys.argv[1:])
    logging.basicConfig(
        level=chosen.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", stream=sys.stderr
    )
    # What has been imported stays; what comes now are JSON trees, which have no cycles and need no collector to go.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    sys.exit(asyncio.run(run(chosen)))


async def run(chosen: Settings) -> int:
    """Run until a signal; returns the exit code. Anything that ends by itself ends the process: no zombies."""
    cluster = await Cluster.connect(chosen.kubeconfig)
    store, queue = Store(), WorkQueue[Key]()
    metrics.REGISTRY.register(metrics.ObjectCollector(store.of_kind, series))
    health = Health(cluster, store, queue, chosen.namespaces)
    recorder = EventRecorder(cluster)
    election = LeaderElection(
        cluster, namespace=chosen.operator_namespace, name="modelyard-operator", identity=chosen.identity
    )
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await _check_crds(cluster, chosen)
        installation = _installation(chosen)
        surroundings = await _start_status_server(cluster, store, queue, chosen)
        await _serve(health.app(), chosen.health_port)
        syncs = {
            TRAINING: partial(sync_training, surroundings=surroundings),
            SERVICE: partial(sync_service, installation=installation),
        }
        reconciler = Reconciler(cluster, store, queue, recorder, syncs)
        measuring = Measuring(store, queue, installation)
        watch = Watch(store, queue, chosen.kubeconfig)
        parts: list[Coroutine[Any, Any, None]] = [
            watch.run(chosen.namespaces, stop),
            health.run(),
            recorder.run(),
            _lead(chosen, cluster, election, health, [measuring.run, *[reconciler.work] * chosen.workers]),
        ]
        return await _until_one_ends(parts, stop)
    except (ApiError, InvalidProfiles) as error:
        log.error("%s", error)
        return 1
    finally:
        if chosen.leader_election and metrics.LEADER._value.get():
            await election.release()
        await cluster.close()


async def _until_one_ends(parts: list[Coroutine[Any, Any, None]], stop: asyncio.Event) -> int:
    tasks = [asyncio.create_task(part) for part in parts]
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    # kopf ends by the same event, and cancels what it does not know when it does.
    code = 0 if stop.is_set() else 1
    for task in done - {stopping} if code else ():
        error = None if task.cancelled() else task.exception()
        if isinstance(error, LeadershipLost):
            # Nothing may be written any more, not even by requests under way: end without unwinding.
            log.error("%s", error)
            os._exit(1)
        log.error("ended by itself: %s", error or task.get_coro(), exc_info=error)
    for task in (*tasks, stopping):
        task.cancel()
    await asyncio.gather(*tasks, stopping, return_exceptions=True)
    return code


async def _lead(
    chosen: Settings,
    cluster: Cluster,
    election: LeaderElection,
    health: Health,
    work: list[Callable[[], Coroutine[Any, Any, None]]],
) -> None:
    """Reconcile while leading, and only then; caches are warm before."""
    await health.synced.wait()
    if chosen.leader_election:
        await election.acquire()
        cluster.may_write = election.is_valid
        await _mark_leader(cluster, chosen)
    else:
        metrics.LEADER.set(1)
    workers = [asyncio.create_task(part()) for part in work]
    if chosen.leader_election:
        workers.append(asyncio.create_task(election.hold()))
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()


async def _mark_leader(cluster: Cluster, chosen: Settings) -> None:
    """Give our own pod the label that the status Service selects, and take it from a leader before us."""
    me = os.environ.get("POD_NAME")
    if not (chosen.in_cluster and me):
        return
    for pod in await cluster.list("Pod", chosen.operator_namespace, labels=f"{LABEL_ROLE}=leader"):
        if pod["metadata"]["name"] != me:
            await _label(cluster, chosen, pod["metadata"]["name"], None)
    await _label(cluster, chosen, me, "leader")


async def _label(cluster: Cluster, chosen: Settings, pod: str, role: str | None) -> None:
    patch: Object = {"metadata": {"labels": {LABEL_ROLE: role}}}
    try:
        await cluster.merge("Pod", chosen.operator_namespace, pod, patch)
    except ApiError as error:
        if not error.not_found:
            raise


async def _check_crds(cluster: Cluster, chosen: Settings) -> None:
    """Both kinds are served, or the process ends with a word on what to install. A busy server is waited for."""
    namespace = chosen.namespaces[0] if chosen.namespaces else None
    for kind in (TRAINING, SERVICE):
        for left in reversed(range(START_TRIES)):
            try:
                await cluster.list(kind, namespace, metadata_only=True)
                break
            except ApiError as error:
                if error.not_found:
                    log.error("the definition of %s is not installed: kubectl apply -f manifests/crds", kind)
                if error.not_found or error.code in (401, 403) or not left:
                    raise
                log.info("%s; trying again", error)
                await asyncio.sleep(max(1.0, error.retry_after))


async def _start_status_server(cluster: Cluster, store: Store, queue: WorkQueue[Key], chosen: Settings) -> Surroundings:
    if not chosen.status_url:
        return Surroundings(workloads_image=chosen.workloads_image)
    certificate = tls.load(chosen.status_tls, chosen.status_url)
    runner = web.AppRunner(StatusServer(cluster, store, queue).app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=chosen.status_port, ssl_context=certificate.context).start()
    return Surroundings(
        workloads_image=chosen.workloads_image, status_url=chosen.status_url, status_ca=certificate.authority
    )


def _installation(chosen: Settings) -> Installation:
    """What services get from this operator. Raises InvalidProfiles."""
    try:
        text = chosen.runtimes.read_text(encoding="utf-8") if chosen.runtimes is not None else ""
        runtimes = parse_profiles(yaml.safe_load(text) or {})
    except (InvalidSpec, OSError, yaml.YAMLError) as error:
        raise InvalidProfiles(f"--runtimes {chosen.runtimes}: {error}") from error
    return Installation(
        workloads_image=chosen.workloads_image,
        router_image=chosen.router_image,
        router_replicas=chosen.router_replicas,
        prometheus_url=chosen.prometheus_url,
        runtimes=runtimes,
    )


async def _serve(app: web.Application, port: int) -> None:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()


if __name__ == "__main__":
    main()
