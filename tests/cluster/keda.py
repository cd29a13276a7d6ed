"""The real KEDA beside a cluster, for one namespace: its operator, and its adapter as the API of external metrics."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.aggregated_api import aggregated
from cluster.foreign import (
    answers,
    certificate,
    command_of,
    defined,
    listens,
    module_directory,
    own_kubeconfig,
    process,
    read,
)
from localcluster import golang
from localcluster.layout import Layout
from ports import free_port

API = "external.metrics.k8s.io"
OURS = "modelyard-test-keda"


@contextmanager
def keda(namespace: str, directory: Path) -> Iterator[None]:
    """KEDA at work for the ScaledObjects of a namespace."""
    layout = Layout.from_environment()
    golang.build(layout, (golang.KEDA, golang.KEDA_ADAPTER))
    module = module_directory(golang.KEDA, "github.com/kedacore/keda/v2")
    authority = certificate(directory, "keda", f"DNS:localhost,DNS:{OURS}.{namespace}.svc,IP:127.0.0.1")
    shutil.copy(directory / "tls.crt", directory / "ca.crt")
    grpc, secure, health = free_port(), free_port(), free_port()
    kubeconfig = str(own_kubeconfig(directory))
    own = dict.fromkeys(("POD_NAMESPACE", "WATCH_NAMESPACE", "KEDA_CLUSTER_OBJECT_NAMESPACE"), namespace)
    variables = {"KUBECONFIG": kubeconfig, **own}
    operator = {
        "metrics-bind-address": "0",
        "health-probe-bind-address": f"127.0.0.1:{health}",
        "metrics-service-bind-address": f"127.0.0.1:{grpc}",
        "cert-dir": str(directory),
        "enable-webhook-patching": "false",
        "enable-apiservice-patching": "false",
    }
    adapter = {
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "lister-kubeconfig": kubeconfig,
        "bind-address": "127.0.0.1",
        "secure-port": str(secure),
        "port": str(free_port()),
        "metrics-service-address": f"localhost:{grpc}",
        "cert-dir": str(directory),
        "tls-cert-file": str(directory / "tls.crt"),
        "tls-private-key-file": str(directory / "tls.key"),
    }
    with ExitStack() as stack:
        stack.enter_context(defined(read(module.glob("config/crd/bases/*.yaml"))))
        probe = f"http://127.0.0.1:{health}/readyz"
        command = command_of(golang.KEDA, operator)
        stack.enter_context(process(command, variables, directory / "keda.log", lambda: answers(probe)))
        command = command_of(golang.KEDA_ADAPTER, adapter)
        stack.enter_context(process(command, variables, directory / "adapter.log", lambda: listens(secure)))
        stack.enter_context(aggregated(API, OURS, namespace, secure, authority))
        yield
