"""The real Kueue beside a cluster: its controller as a process of this machine, its definitions and webhooks in the
cluster, for the pods of one namespace; all of it gone at the end.

The API server calls the webhooks at 127.0.0.1, so this needs the local cluster, whose parts run on this machine.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from cluster.foreign import answers, apply, let_go, module_directory, own_kubeconfig, read, run
from cluster.kubernetes_api import Object, eventually
from cluster.operator_process import free_port
from localcluster import golang
from localcluster.layout import Layout

METRICS_CERTIFICATE = Path("/etc/kueue/metrics/certs")
"""Where Kueue looks for it whatever its configuration says."""
_OURS = "modelyard-test-kueue"


def _certificate(directory: Path) -> str:
    """A pair for 127.0.0.1 in a directory; the certificate as a webhook's configuration wants it."""
    key, certificate = directory / "tls.key", directory / "tls.crt"
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-keyout", str(key))
    about = ("-subj", "/CN=kueue", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2", "-out", str(certificate))
    subprocess.run(["openssl", "req", "-x509", *new, *about], check=True, capture_output=True, timeout=60)
    return base64.b64encode(certificate.read_bytes()).decode()


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
    authority = _certificate(directory)
    assert not METRICS_CERTIFICATE.exists(), f"{METRICS_CERTIFICATE} belongs to somebody else"
    definitions = read(module.glob("config/components/crd/bases/*.yaml"))
    names = [definition["metadata"]["name"] for definition in definitions]
    webhooks = _webhooks(module, namespace, port, authority)
    config, log = directory / "config.yaml", directory / "kueue.log"
    config.write_text(json.dumps(_configuration(namespace, directory, port, health)))
    process = None
    try:
        METRICS_CERTIFICATE.mkdir(parents=True)
        for name in ("tls.crt", "tls.key"):
            shutil.copy(directory / name, METRICS_CERTIFICATE)
        apply(*definitions)
        run("wait", "--for=condition=Established", "--timeout=60s", *(f"crd/{name}" for name in names))
        command = [str(layout.bin / "kueue"), "--config", str(config), "--feature-gates=VisibilityOnDemand=false"]
        with log.open("wb") as output:
            started = {**os.environ, "KUBECONFIG": str(own_kubeconfig(directory))}
            process = subprocess.Popen(command, env=started, stdout=output, stderr=output)
        probe = f"http://127.0.0.1:{health}/readyz"
        eventually("Kueue is ready", lambda: answers(probe), 60, lambda: log.read_text()[-3000:])
        apply(*webhooks)
        yield log
    finally:
        _remove(namespace, names, webhooks, process)


def _remove(namespace: str, names: list[str], webhooks: list[Object], process: subprocess.Popen[bytes] | None) -> None:
    """All of it, in whatever state it is: with Kueue gone, nobody else would take its finalizers away."""
    run("delete", *(f"{body['kind'].lower()}/{body['metadata']['name']}" for body in webhooks), "--ignore-not-found")
    if process is not None:
        process.terminate()
        process.wait(60)
    shutil.rmtree(METRICS_CERTIFICATE.parents[1], ignore_errors=True)
    run("delete", "namespace", namespace, "--ignore-not-found", "--wait=false")
    let_go("pods", namespace)
    for name in names:
        if run("get", "crd", name, "--ignore-not-found"):
            let_go(name, "")
    run("delete", *(f"crd/{name}" for name in names), "--ignore-not-found", "--timeout=120s")
