"""Services on the real node, made of small servers, and clients that count what they get."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import aiohttp
import pytest
import yaml
from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.laboratory import Laboratory
from cluster.objects import Played
from cluster.operator_process import OperatorProcess
from cluster.reporting import address_for_pods, source_towards
from cluster.small_server import IN_FLIGHT, LAST, LINES, REQUESTS, STREAM, TOKENS
from localcluster import settings
from localcluster.layout import Layout

OPERATOR_IMAGE = "localhost/modelyard/operator:dev"
SOURCE = (Path(__file__).parent / "small_server.py").read_text(encoding="utf-8")
RUNTIMES: Object = {
    "small": {
        "image": OPERATOR_IMAGE,
        "command": ["python", "-c", SOURCE],
        "port": 8080,
        "readyPath": "/healthz",
        "livePath": "/healthz",
        "metrics": {"path": "/v2/health/load"},
    }
}
# the same server, which tells its load as servers of others do
RUNTIMES["series"] = {
    **RUNTIMES["small"],
    "metrics": {"path": "/metrics", "inFlight": [IN_FLIGHT], "requests": [REQUESTS], "tokens": [TOKENS]},
}
CLAIM = "models"


def write_runtimes(directory: Path) -> Path:
    path = directory / "runtimes.yaml"
    path.write_text(yaml.safe_dump(RUNTIMES), encoding="utf-8")
    return path


def operator_of_small_servers(laboratory: Laboratory, name: str) -> tuple[OperatorProcess, str]:
    """An operator that knows them, and its namespace, in which the claim is."""
    namespace = laboratory.make_namespace(name)
    make_claim(laboratory, namespace)
    directory = laboratory.directory / name
    directory.mkdir()
    options = ("--leader-election", "false", "--runtimes", str(write_runtimes(directory)))
    operator, _ = laboratory.start_operator([namespace], *options)
    return operator, namespace


def make_claim(laboratory: Laboratory, namespace: str) -> None:
    """What the services' models are said to be on; the small servers read nothing."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
    laboratory.api.create(claim, namespace)


def small_service(name: str, *, env: dict[str, str] | None = None, **spec: Any) -> Object:
    resources = {"requests": {"cpu": "10m", "memory": "32Mi"}}
    body: Object = {
        "model": {"source": {"uri": f"pvc://{CLAIM}/any"}},
        "runtime": "small",
        "drain": {"preStopSeconds": 3, "timeoutSeconds": 20},
        "predictor": {"resources": resources, "env": variables(**(env or {"VERSION": "1"}))},
        **spec,
    }
    return {"apiVersion": "modelyard.dev/v1alpha1", "kind": "ModelService", "metadata": {"name": name}, "spec": body}


def variables(**values: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def address(played: Played) -> str:
    """The Service's own address, reachable from the node."""

    def there() -> str | None:
        found = played.api.find("Service", played.namespace, played.name)
        return found["spec"].get("clusterIP") if found else None

    host = eventually("the Service has an address", there)
    if settings.load(Layout.from_environment()).backend == "kind" and not is_routed(played.api, host):
        pytest.skip("kind's Services are out of reach of this machine; tests/localcluster/README.md has the route")
    url = f"http://{host}"
    eventually("the node knows the way to it", lambda: version_at(url) is not None)
    return url


def is_routed(api: KubernetesApi, service: str) -> bool:
    """Whether this machine sends packets for the address of a Service to the node. Asking would not tell: a proxy on
    the way out of the machine may answer for every address.
    """
    return source_towards(service) == address_for_pods(api)


def version_at(url: str) -> str | None:
    """The version that answers; None where none does."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return str(json.load(response)["model_version"])
    except (OSError, ValueError, KeyError):
        return None


class Clients:
    """Clients in a thread of their own: each sends a request, waits for its answer, and sends the next."""

    def __init__(self, url: str, count: int, pause: float, bearable: Collection[str] = (), host: str = "") -> None:
        """`bearable`: codes that the servers of this test give on purpose; `host`: where it is not the URL's."""
        self._url, self._count, self._pause, self._bearable = url, count, pause, bearable
        self.answers: Counter[str] = Counter()
        """Requests by what came of them: the version that answered, `500`, or the name of an error."""
        self.failures: list[str] = []
        """What went wrong, and when since the start."""
        self.failed = 0
        """Requests that ended in an error, or got anything but a version's whole answer."""
        self._headers = {"Host": host} if host else {}
        self._began = monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Clients:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(90)

    @property
    def total(self) -> int:
        return sum(self.answers.values())

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=90)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(self._count)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._stop.is_set():
            await self._ask(session, fresh=number % 4 == 0)
            await asyncio.sleep(self._pause)

    async def _ask(self, session: aiohttp.ClientSession, *, fresh: bool) -> None:
        """One request; every fourth client makes a connection for each."""
        headers = {"Connection": "close"} if fresh else {}
        well = False
        try:
            async with session.post(self._url, json={"x": [1.0]}, headers=headers) as response:
                name = str(response.status)
                if response.status == 200:
                    name, well = str((await response.json())["model_version"]), True
        except Exception as error:
            name = f"{type(error).__name__}: {error}"
        self._count_answer(name, well=well)

    def _count_answer(self, name: str, *, well: bool) -> None:
        self.answers[name] += 1
        if not well and name not in self._bearable:
            self.failed += 1
            self.failures.append(f"{monotonic() - self._began:.1f} s: {name}")


class StreamClients(Clients):
    """Clients that ask for a stream and read it to its end. One that breaks off counts as an error."""

    async def _ask(self, session: aiohttp.ClientSession, *, fresh: bool) -> None:
        headers = {"Connection": "close"} if fresh else {}
        well = False
        try:
            async with session.post(self._url + STREAM, headers=headers) as response:
                name = str(response.status)
                if response.status == 200:
                    lines = (await response.text()).split("\n")
                    well = len(lines) == LINES + 1 and LAST in lines[-2]
                    name = lines[0].split()[0] if well else f"BrokenStream: {len(lines)} lines"
        except Exception as error:
            name = f"{type(error).__name__}: {error}"
        self._count_answer(name, well=well)


async def ask_all(url: str, count: int, seconds: float) -> list[int]:
    """The status codes of so many requests at once, each on a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one() -> int:
            async with session.post(url, json={"x": [1.0]}) as response:
                await response.read()
                return response.status

        return list(await asyncio.gather(*(one() for _ in range(count))))


@contextmanager
def under_load(
    played: Played, clients: int = 6, pause: float = 0.05, bearable: Collection[str] = ()
) -> Iterator[Clients]:
    """Clients that ask all the time while the block runs."""
    with Clients(address(played), clients, pause, bearable) as made:
        eventually("the clients get answers", lambda: made.total > 20, told=lambda: made.answers)
        yield made
