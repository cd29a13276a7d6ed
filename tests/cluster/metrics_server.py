"""The real metrics-server beside a cluster: what the pods of the node use of cpu and memory, for autoscalers by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.aggregated_api import aggregated
from cluster.foreign import certificate, command_of, listens, own_kubeconfig, process
from localcluster import golang
from localcluster.layout import Layout
from ports import free_port

API = "metrics.k8s.io"
OURS = "modelyard-test-metrics"
RESOLUTION_SECONDS = 10
"""Its shortest: how often it asks the kubelets."""


@contextmanager
def metrics_server(namespace: str, directory: Path) -> Iterator[None]:
    """Pods have metrics, of all namespaces; `namespace` is where the way to the server is written down."""
    layout = Layout.from_environment()
    golang.build(layout, (golang.METRICS_SERVER,))
    authority = certificate(directory, "metrics", f"DNS:localhost,DNS:{OURS}.{namespace}.svc,IP:127.0.0.1")
    secure, kubeconfig = free_port(), str(own_kubeconfig(directory))
    options = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": "127.0.0.1",
        "secure-port": str(secure),
        "tls-cert-file": str(directory / "tls.crt"),
        "tls-private-key-file": str(directory / "tls.key"),
        "kubelet-insecure-tls": "true",
        "kubelet-preferred-address-types": "InternalIP",
        "node-selector": "!type",  # the fake nodes have no kubelets
        "metric-resolution": f"{RESOLUTION_SECONDS}s",
        "kubelet-request-timeout": f"{RESOLUTION_SECONDS // 2}s",
    }
    command = command_of(golang.METRICS_SERVER, options)
    with (
        process(command, {}, directory / "metrics-server.log", lambda: listens(secure)),
        aggregated(API, OURS, namespace, secure, authority),
    ):
        yield
