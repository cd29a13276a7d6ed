"""The operator's settings: flags, or the environment variable of the same name with MODELYARD_ in front."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, kw_only=True)
class Settings:
    namespaces: tuple[str, ...]
    """The namespaces to watch; empty for all of them."""
    operator_namespace: str
    workloads_image: str
    router_image: str
    router_replicas: int
    runtimes: Path | None
    """The file with the runtime profiles."""
    prometheus_url: str
    status_url: str
    status_port: int
    status_tls: Path | None
    health_port: int
    workers: int
    leader_election: bool
    kubeconfig: str | None
    identity: str
    in_cluster: bool
    log_level: str


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Flags win over the environment. Ends the process with a usage message where something is wrong."""
    parser = argparse.ArgumentParser(prog="modelyard-operator", description=__doc__)

    def add(flag: str, default: str, text: str) -> None:
        variable = "MODELYARD_" + flag.removeprefix("--").upper().replace("-", "_")
        parser.add_argument(flag, default=environment.get(variable, default), help=f"{text} (${variable}; {default!r})")

    add("--namespaces", "", "namespaces to watch, separated by commas; empty for all")
    add("--operator-namespace", _own_namespace(), "where the lease is")
    add("--workloads-image", "modelyard/workloads:latest", "image of the bundled trainers and servers")
    add("--router-image", "modelyard/operator:latest", "image of the routers: the operator's own")
    add("--router-replicas", "1", "routers of a service that needs any")
    add("--runtimes", "", "YAML file with runtime profiles")
    add("--prometheus-url", "", "where KEDA asks for requests and tokens")
    add("--status-url", "", "https:// address at which pods reach the status server; empty turns it off")
    add("--status-port", "10443", "port of the status server")
    add("--status-tls", "", "directory with tls.crt, tls.key and ca.crt; empty for an ephemeral certificate")
    add("--health-port", "8080", "port of /healthz, /readyz and /metrics")
    add("--workers", "32", "reconciles side by side")
    add("--leader-election", "true", "false for a single process that needs no lease")
    add("--kubeconfig", environment.get("KUBECONFIG", ""), "outside a cluster: the kubeconfig file")
    add("--log-level", "INFO", "DEBUG, INFO, WARNING or ERROR")
    values = parser.parse_args(arguments)
    in_cluster = not values.kubeconfig
    if in_cluster and not _SERVICE_ACCOUNT.exists():
        parser.error("not in a pod: write --kubeconfig FILE (or set KUBECONFIG)")
    return Settings(
        namespaces=tuple(n.strip() for n in values.namespaces.split(",") if n.strip()),
        operator_namespace=values.operator_namespace,
        workloads_image=values.workloads_image,
        router_image=values.router_image,
        router_replicas=_number(parser, "--router-replicas", values.router_replicas),
        runtimes=Path(values.runtimes) if values.runtimes else None,
        prometheus_url=values.prometheus_url,
        status_url=values.status_url,
        status_port=_number(parser, "--status-port", values.status_port),
        status_tls=Path(values.status_tls) if values.status_tls else None,
        health_port=_number(parser, "--health-port", values.health_port),
        workers=_number(parser, "--workers", values.workers),
        leader_election=_switch(parser, "--leader-election", values.leader_election),
        kubeconfig=values.kubeconfig or None,
        identity=f"{environment.get('POD_NAME') or socket.gethostname()}_{os.getpid()}",
        in_cluster=in_cluster,
        log_level=values.log_level.upper(),
    )


def _own_namespace() -> str:
    path = _SERVICE_ACCOUNT / "namespace"
    return path.read_text().strip() if path.exists() else "default"


def _number(parser: argparse.ArgumentParser, flag: str, text: str) -> int:
    if not text.isdigit():
        parser.error(f"{flag}: {text!r} is not a whole number")
    return int(text)


def _switch(parser: argparse.ArgumentParser, flag: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        parser.error(f"{flag}: {text!r}; write true or false")
    return text.lower() == "true"
