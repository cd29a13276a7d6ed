"""The real Kueue beside a cluster: its controller as a process of this machine, its definitions and webhooks in the
cluster, for the pods of one namespace; all of it gone at the end.

The API server calls the webhooks at 127.0.0.1, so this needs the local cluster, whose parts run on this machine.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml
from cluster.foreign import (
    answers,
    apply,
    certificate,
    defined,
    let_go,
    module_directory,
    own_kubeconfig,
    process,
    read,
    run,
)
from cluster.kubernetes_api import Object
from localcluster import golang
from localcluster.layout import Layout
from ports import free_port

METRICS_CERTIFICATE = Path("/etc/kueue/metrics/certs")
"""Where Kueue looks for it whatever its configuration says."""
_OURS = "modelyard-test-kueue"


def _configuration(namespace: str, directory: Path, webhooks: int, health: int) -> Object:
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"port": webhooks, "host": "127.0.0.1", "certDir": str(directory)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "managedJobsNamespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "integrations": {"frameworks": ["pod"]},
    }


def _webhooks(module: Path, namespace: str, port: int, authority: str) -> list[Object]:
    """Those for Kueue's own kinds, and those for the pods of the namespace."""
    found = []
    for body in yaml.safe_load_all((module / "config/components/webhook/manifests.yaml").read_text()):
        kept = []
        for webhook in body["webhooks"]:
            groups = {group for rule in webhook["rules"] for group in rule["apiGroups"]}
            pods = any("pods" in rule["resources"] for rule in webhook["rules"])
            if groups != {"kueue.x-k8s.io"} and not pods:
                continue
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
            if pods:
                webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
            kept.append(webhook)
        kind = body["kind"]
        found.append({**body, "metadata": {"name": f"{_OURS}-{kind.split('Webhook')[0].lower()}"}, "webhooks": kept})
    return found


@contextmanager
def kueue(namespace: str, directory: Path) -> Iterator[Path]:
    """Kueue for the pods of one namespace; its log. At the end the namespace and all that is Kueue's are gone."""
    layout = Layout.from_environment()
    golang.build(layout, (golang.KUEUE,))
    module, (port, health) = module_directory(golang.KUEUE, "sigs.k8s.io/kueue"), (free_port(), free_port())
    authority = certificate(directory, "kueue", "IP:127.0.0.1")
    config, log = directory / "config.yaml", directory / "kueue.log"
    config.write_text(json.dumps(_configuration(namespace, directory, port, health)))
    command = [str(layout.bin / "kueue"), "--config", str(config), "--feature-gates=VisibilityOnDemand=false"]
    probe = f"http://127.0.0.1:{health}/readyz"
    with ExitStack() as stack:
        stack.enter_context(_metrics_certificate(directory))
        stack.enter_context(defined(read(module.glob("config/components/crd/bases/*.yaml"))))
        stack.enter_context(_left_at_the_end(namespace))
        variables = {"KUBECONFIG": str(own_kubeconfig(directory))}
        stack.enter_context(process(command, variables, log, lambda: answers(probe)))
        stack.enter_context(_registered(_webhooks(module, namespace, port, authority)))
        yield log


@contextmanager
def _metrics_certificate(directory: Path) -> Iterator[None]:
    assert not METRICS_CERTIFICATE.exists(), f"{METRICS_CERTIFICATE} belongs to somebody else"
    try:
        METRICS_CERTIFICATE.mkdir(parents=True)
        for name in ("tls.crt", "tls.key"):
            shutil.copy(directory / name, METRICS_CERTIFICATE)
        yield
    finally:
        shutil.rmtree(METRICS_CERTIFICATE.parents[1], ignore_errors=True)


@contextmanager
def _left_at_the_end(namespace: str) -> Iterator[None]:
    """With Kueue gone, nobody else would take its finalizers from the pods."""
    try:
        yield
    finally:
        run("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
        let_go("pods", namespace)


@contextmanager
def _registered(webhooks: list[Object]) -> Iterator[None]:
    try:
        apply(*webhooks)
        yield
    finally:
        names = (f"{body['kind'].lower()}/{body['metadata']['name']}" for body in webhooks)
        run("delete", *names, "--ignore-not-found")
