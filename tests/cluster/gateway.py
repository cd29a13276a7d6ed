"""The real Traefik beside a cluster, as a gateway of the Gateway API and as an Ingress controller for one namespace."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from cluster.foreign import answers, apply, defined, module_directory, own_kubeconfig, process, read, run
from cluster.kubernetes_api import Object
from localcluster import golang
from localcluster.layout import Layout
from ports import free_port

API = "gateway.networking.k8s.io/v1"
CLASS = "modelyard-test"
GATEWAY = "public"
LISTENER = "web"
CONTROLLER = "traefik.io/gateway-controller"


@dataclass(frozen=True)
class Gateway:
    """One that listens on this machine only."""

    url: str
    log: Path

    def told(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


@contextmanager
def gateway(namespace: str, directory: Path) -> Iterator[Gateway]:
    """The definitions of the Gateway API, Traefik at work for a namespace, and the Gateway `public` in it."""
    layout = Layout.from_environment()
    golang.build(layout, (golang.TRAEFIK,))
    module = module_directory(golang.TRAEFIK, "sigs.k8s.io/gateway-api")
    definitions = read(module.glob("config/crd/standard/gateway.networking.k8s.io_*.yaml"))
    definitions = [body for body in definitions if body["kind"] == "CustomResourceDefinition"]
    port, health, log = free_port(), free_port(), directory / "traefik.log"
    options = {
        "entrypoints.web.address": f"127.0.0.1:{port}",
        "entrypoints.health.address": f"127.0.0.1:{health}",
        "ping.entrypoint": "health",
        "providers.kubernetesgateway.namespaces": namespace,
        "providers.kubernetesingress.namespaces": namespace,
        "global.checknewversion": "false",
        "global.sendanonymoususage": "false",
    }
    command = [str(layout.bin / "traefik"), *(f"--{name}={value}" for name, value in options.items())]
    variables = {"KUBECONFIG": str(own_kubeconfig(directory))}
    with defined(definitions):
        apply(*_gateway(namespace, port))
        with process(command, variables, log, lambda: answers(f"http://127.0.0.1:{health}/ping")):
            run("wait", "--namespace", namespace, "--for=condition=Programmed", "--timeout=60s", f"gateway/{GATEWAY}")
            yield Gateway(f"http://127.0.0.1:{port}", log)


def _gateway(namespace: str, port: int) -> list[Object]:
    meta = {"name": GATEWAY, "namespace": namespace}
    spec = {"gatewayClassName": CLASS, "listeners": [{"name": LISTENER, "protocol": "HTTP", "port": port}]}
    return [
        {
            "apiVersion": API,
            "kind": "GatewayClass",
            "metadata": {"name": CLASS},
            "spec": {"controllerName": CONTROLLER},
        },
        {"apiVersion": API, "kind": "Gateway", "metadata": meta, "spec": spec},
    ]


def ask(url: str, host: str, count: int, at_once: int = 10) -> Counter[str]:
    """So many requests, some at once: by the version that answered each, or its status code."""
    return asyncio.run(_ask(url, host, count, at_once))


async def _ask(url: str, host: str, count: int, at_once: int) -> Counter[str]:
    answered: Counter[str] = Counter()
    left = iter(range(count))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90), headers={"Host": host}) as session:

        async def client() -> None:
            for _ in left:
                async with session.post(url, json={"x": [1.0]}) as response:
                    body = await response.read()
                    told = str((await response.json())["model_version"]) if response.status == 200 else ""
                    answered[told or f"{response.status} {body[:80]!r}"] += 1

        await asyncio.gather(*(client() for _ in range(at_once)))
    return answered
