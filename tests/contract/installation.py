"""The two ways to install, as lists of objects: the chart through helm, and `manifests/` through its kustomization."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "modelyard"
MANIFESTS = ROOT / "manifests"
NAMESPACE = "modelyard-system"
CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "Namespace")
HELM_SECONDS = 1500
"""The first call on a machine compiles helm."""

Object = dict[str, Any]


@cache
def chart(*settings: str) -> tuple[Object, ...]:
    """The chart's objects, with settings as `helm --set` takes them."""
    rendered = helm("template", "modelyard", str(CHART), "--namespace", NAMESPACE, *settings)
    return tuple(body for body in yaml.safe_load_all(rendered) if body)


def helm(*arguments: str) -> str:
    """helm's output. Raises CalledProcessError with its stderr when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "localcluster", "helm", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=HELM_SECONDS,
        check=False,
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return done.stdout


@cache
def kustomization() -> tuple[Object, ...]:
    """The objects of `manifests/`: the few features of kustomize that it uses, without kustomize.

    That kustomize itself makes the same is a test on the cluster, where kubectl is.
    """
    config = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text(encoding="utf-8"))
    assert set(config) == {"apiVersion", "kind", "namespace", "labels", "resources"}
    labels = {key: value for entry in config["labels"] for key, value in entry["pairs"].items()}
    bodies = [
        body
        for name in config["resources"]
        for body in yaml.safe_load_all((MANIFESTS / name).read_text(encoding="utf-8"))
    ]
    for body in bodies:
        meta = body["metadata"]
        meta["labels"] = {**meta.get("labels", {}), **labels}
        if body["kind"] not in CLUSTER_WIDE:
            meta["namespace"] = config["namespace"]
    return tuple(bodies)


def identity(body: Object) -> tuple[str, str, str]:
    meta = body["metadata"]
    return body["kind"], meta.get("namespace", ""), meta["name"]


def pod_specs(bodies: tuple[Object, ...]) -> list[Object]:
    """The pod templates among the objects."""
    return [body["spec"]["template"]["spec"] for body in bodies if body["kind"] == "Deployment"]
