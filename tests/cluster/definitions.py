"""Both CustomResourceDefinitions, by plain `kubectl apply`, as the README says."""

from __future__ import annotations

import os
import subprocess

from cluster.operator_process import ROOT
from localcluster.layout import CONTEXT, Layout


def apply_definitions() -> None:
    """Apply them to the chosen context and wait until the API server serves them."""
    layout = Layout.from_environment()
    environment = {**os.environ, "PATH": f"{layout.bin}:{os.environ['PATH']}"}
    environment.setdefault("KUBECONFIG", str(layout.kubeconfig))
    kubectl = ["kubectl", "--context", os.environ.get("MODELYARD_CONTEXT", CONTEXT)]
    crds = str(ROOT / "manifests" / "crds")
    subprocess.run([*kubectl, "apply", "-f", crds], check=True, env=environment, timeout=60, capture_output=True)
    ready = [*kubectl, "wait", "--for=condition=Established", "--timeout=60s", "-f", crds]
    subprocess.run(ready, check=True, env=environment, timeout=90, capture_output=True)
