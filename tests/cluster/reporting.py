"""Operators that real pods can report to: one outside of the cluster is reached by this machine's own address."""

from __future__ import annotations

import socket

from cluster.kubernetes_api import KubernetesApi
from cluster.laboratory import Laboratory
from ports import free_port


def address_for_pods(api: KubernetesApi) -> str:
    """This machine's address as the nodes see it."""
    nodes = [node for node in api.list("Node", None) if node["metadata"]["labels"].get("type") != "kwok"]
    told = (a["address"] for node in nodes for a in node["status"].get("addresses") or () if a["type"] == "InternalIP")
    return source_towards(next(told))


def source_towards(host: str) -> str:
    """The address of this machine from which packets for `host` leave."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def operator_that_listens(laboratory: Laboratory, name: str, host: str = "") -> tuple[str, int]:
    """A namespace with an operator of its own, and the port of its status server. `host`: where pods are to report
    to; this machine as the nodes see it, if empty.
    """
    namespace, port = laboratory.make_namespace(name), free_port()
    url = f"https://{host or address_for_pods(laboratory.api)}"
    options = ("--leader-election", "false", "--status-url", f"{url}:{port}", "--status-port", str(port))
    laboratory.start_operator([namespace], *options)
    return namespace, port
