"""Asks servers and routers how much they have to do, and puts the answers where `sync` sees them. Nothing is written.

Only services that need it are asked: those that scale by themselves, those with a canary under way, and those whose
pods are loading their model. Every question has a timeout, and their number at a time is bounded.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic

import aiohttp

from modelyard_operator.load import Download, Load, RouterLoad, Sample
from modelyard_operator.objects import LABEL_COMPONENT, LABEL_REVISION, ROUTER, SERVICE, is_terminating
from modelyard_operator.plan import Key, Object
from modelyard_operator.readings import Counters, RouterStatus, read_counters, read_exposition, read_router
from modelyard_operator.service.checks import BUILTIN
from modelyard_operator.service.routing import ADMIN_PORT
from modelyard_operator.service.runtime import Installation, RuntimeProfile
from modelyard_operator.service.source import FETCH, FETCH_PORT, claim_of
from modelyard_operator.store import Store
from modelyard_operator.workqueue import WorkQueue

log = logging.getLogger(__name__)

PERIOD_SECONDS = 1.0
MAX_IN_FLIGHT = 48
TIMEOUT = aiohttp.ClientTimeout(total=2.0, sock_connect=1.0)
MAX_ANSWER = 4 << 20
_KEPT_SECONDS = 150.0
_FAULTS = (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError)


@dataclass
class _Before:
    """What a server had counted when it was last asked."""

    at: float
    counters: Counters


class Measuring:
    """One per process that leads."""

    def __init__(self, store: Store, queue: WorkQueue[Key], installation: Installation) -> None:
        self._store = store
        self._queue = queue
        self._installation = installation
        self._before: dict[str, _Before] = {}
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def run(self) -> None:
        """Ask until cancelled."""
        connector = aiohttp.TCPConnector(limit=MAX_IN_FLIGHT, keepalive_timeout=15)
        async with aiohttp.ClientSession(timeout=TIMEOUT, connector=connector) as session:
            while True:
                began = monotonic()
                services = [service for service in self._store.of_kind(SERVICE) if self._is_measured(service)]
                await asyncio.gather(*(self._measure(session, service) for service in services))
                self._forget()
                await asyncio.sleep(max(0.1, PERIOD_SECONDS - (monotonic() - began)))

    def _is_measured(self, service: Object) -> bool:
        scaling = (service.get("spec") or {}).get("scaling") or {}
        if scaling and scaling.get("backend", "Internal") == "Internal":
            return True
        status = service.get("status") or {}
        if (status.get("canary") or {}).get("verdict") == "Progressing":
            return True
        loads = status.get("phase") != "Ready" and claim_of(status.get("model")) is None
        return loads and any(map(_is_loading, self._pods(service)))

    def _pods(self, service: Object) -> tuple[Object, ...]:
        meta = service["metadata"]
        return self._store.children(Key(SERVICE, meta["namespace"], meta["name"])).pods

    async def _measure(self, session: aiohttp.ClientSession, service: Object) -> None:
        meta = service["metadata"]
        key = Key(SERVICE, meta["namespace"], meta["name"])
        pods = [pod for pod in self._pods(service) if (pod.get("status") or {}).get("podIP")]
        router, counters, download = await asyncio.gather(
            self._ask_routers(session, [p for p in pods if p["metadata"]["labels"].get(LABEL_COMPONENT) == ROUTER]),
            self._ask_servers(session, service, [p for p in pods if LABEL_REVISION in p["metadata"]["labels"]]),
            self._ask_downloads(session, [p for p in pods if _is_loading(p)]),
        )
        known = self._store.loads.get(key)
        now = datetime.now(UTC)
        kept = _KEPT_SECONDS + float(((service["spec"].get("scaling") or {}).get("scaleDownDelaySeconds")) or 30)
        samples = known.samples if known is not None else ()
        if counters is not None:
            held = router.held if router is not None else 0
            sample = Sample(time=now, concurrency=counters.in_flight + held, rps=counters.rps, tokens=counters.tokens)
            samples = (*(s for s in samples if now - s.time < timedelta(seconds=kept)), sample)
        self._store.loads[key] = Load(samples=samples, router=router, download=download)
        self._queue.add(key)

    async def _ask_servers(self, session: aiohttp.ClientSession, service: Object, pods: list[Object]) -> _Rates | None:
        """The load of all servers together; None where none is ready, or none answers."""
        profile = self._profile(service)
        ready = [pod for pod in pods if _is_ready(pod)]
        if profile is None or not profile.metrics.path or not ready:
            return None
        rates = await asyncio.gather(*(self._ask_server(session, pod, profile) for pod in ready))
        known = [rate for rate in rates if rate is not None]
        if not known:
            return None
        share = len(ready) / len(known)  # who is too busy to answer has as much to do as the others
        return _Rates(
            in_flight=share * sum(rate.in_flight for rate in known),
            rps=share * sum(rate.rps for rate in known),
            tokens=share * sum(rate.tokens for rate in known),
        )

    def _profile(self, service: Object) -> RuntimeProfile | None:
        runtime = (service.get("spec") or {}).get("runtime") or BUILTIN
        return self._installation.builtin() if runtime == BUILTIN else self._installation.runtimes.get(runtime)

    async def _ask_server(self, session: aiohttp.ClientSession, pod: Object, profile: RuntimeProfile) -> _Rates | None:
        metrics = profile.metrics
        text = await self._get(session, pod, profile.port, metrics.path)
        try:
            counters = None
            if text is not None:
                counters = read_exposition(text, metrics) if metrics.names else read_counters(json.loads(text))
        except _FAULTS:
            counters = None
        if counters is None:
            return None
        now, uid = monotonic(), pod["metadata"]["uid"]
        before = self._before.get(uid)
        self._before[uid] = _Before(now, counters)
        if before is None or now - before.at < PERIOD_SECONDS / 4:
            return _Rates(in_flight=counters.in_flight)
        passed = now - before.at
        mean = counters.in_flight
        if counters.in_flight_seconds is not None and before.counters.in_flight_seconds is not None:
            mean = max(0.0, counters.in_flight_seconds - before.counters.in_flight_seconds) / passed
        return _Rates(
            in_flight=mean,
            rps=max(0.0, counters.requests - before.counters.requests) / passed,
            tokens=max(0.0, counters.tokens - before.counters.tokens) / passed,
        )

    async def _ask_routers(self, session: aiohttp.ClientSession, pods: list[Object]) -> RouterLoad | None:
        """All routers together. Those that end hold requests too, but their table and counts are of no interest."""
        answers = await asyncio.gather(*(self._ask_router(session, pod) for pod in pods))
        told = [(pod, answer) for pod, answer in zip(pods, answers, strict=True) if answer is not None]
        staying = [answer for pod, answer in told if not is_terminating(pod)]
        if not staying:
            return None
        silent = sum(not is_terminating(pod) for pod in pods) - len(staying)
        return RouterStatus.together(staying, [a for pod, a in told if is_terminating(pod)], silent)

    async def _ask_router(self, session: aiohttp.ClientSession, pod: Object) -> RouterStatus | None:
        text = await self._get(session, pod, ADMIN_PORT, "/status")
        try:
            return read_router(json.loads(text)) if text is not None else None
        except _FAULTS:
            return None

    async def _ask_downloads(self, session: aiohttp.ClientSession, pods: list[Object]) -> Download | None:
        answers = await asyncio.gather(*(self._get(session, pod, FETCH_PORT, "/progress") for pod in pods))
        known: list[Download] = []
        for text in answers:
            try:
                told = json.loads(text) if text is not None else {}
                total = told.get("totalBytes")
                known.append(Download(done_bytes=int(told["doneBytes"]), total_bytes=int(total) if total else None))
            except _FAULTS:
                continue
        return min(known, key=lambda d: d.done_bytes, default=None)

    async def _get(self, session: aiohttp.ClientSession, pod: Object, port: int, path: str) -> str | None:
        """The text of an answer of 200; None for everything else."""
        address = pod["status"]["podIP"]
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._slots, session.get(f"http://{host}:{port}{path}") as response:
                if response.status != 200:
                    return None
                return (await response.content.read(MAX_ANSWER)).decode(errors="replace")
        except _FAULTS as error:
            log.debug("%s does not tell its load: %s", pod["metadata"]["name"], type(error).__name__)
            return None

    def _forget(self) -> None:
        """Drop the counters of pods that have not answered for long."""
        old = monotonic() - _KEPT_SECONDS
        self._before = {uid: before for uid, before in self._before.items() if before.at > old}


@dataclass(frozen=True, kw_only=True)
class _Rates:
    in_flight: float = 0.0
    rps: float = 0.0
    tokens: float = 0.0


def _is_loading(pod: Object) -> bool:
    containers = (pod.get("status") or {}).get("initContainerStatuses") or ()
    loading = any(c.get("name") == FETCH and "running" in (c.get("state") or {}) for c in containers)
    return loading and not is_terminating(pod)


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return ready and not is_terminating(pod)
