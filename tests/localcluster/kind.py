"""The cluster in Docker by kind, with the same audit log, context name and commands as the node of our own."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from localcluster import certificates, golang, processes, rendering, settings
from localcluster.imagebuild import PROJECT_IMAGES, fingerprint, stamp_path
from localcluster.layout import CONTEXT, REPOSITORY, Layout, LocalClusterError
from localcluster.progress import step

AUDIT_IN_NODE = "/var/log/kubernetes"
POLICY_IN_NODE = "/etc/kubernetes/modelyard-audit-policy.json"
CREATE_SECONDS = 900
IMAGE_VARIABLE = "MODELYARD_KIND_IMAGE"  # a node image of your own, where the one that kind names cannot be pulled


def config(layout: Layout) -> str:
    """kind's configuration (JSON is YAML): one node, whose API server writes its audit log into our cache directory."""
    arguments = {
        "audit-policy-file": POLICY_IN_NODE,
        "audit-log-path": f"{AUDIT_IN_NODE}/audit.log",
        "audit-log-maxsize": "200",
        "audit-log-maxbackup": "1",
    }
    volumes = [
        _volume("audit-policy", POLICY_IN_NODE, "File", read_only=True),
        _volume("audit-log", AUDIT_IN_NODE, "DirectoryOrCreate", read_only=False),
    ]
    patch = {"kind": "ClusterConfiguration", "apiServer": {"extraArgs": arguments, "extraVolumes": volumes}}
    mounts = [
        {"hostPath": str(layout.config / "audit-policy.json"), "containerPath": POLICY_IN_NODE, "readOnly": True},
        {"hostPath": str(layout.log), "containerPath": AUDIT_IN_NODE},
    ]
    node = {"role": "control-plane", "extraMounts": mounts, "kubeadmConfigPatches": [json.dumps(patch)]}
    return json.dumps({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [node]}, indent=1)


def _volume(name: str, path: str, kind: str, *, read_only: bool) -> dict[str, Any]:
    return {"name": name, "hostPath": path, "mountPath": path, "readOnly": read_only, "pathType": kind}


def own_context(kubeconfig: str) -> str:
    """kind names everything kind-<cluster>; every cluster of ours has the same context name."""
    return kubeconfig.replace(f"kind-{CONTEXT}", CONTEXT)


def up(layout: Layout) -> None:
    """Create the kind cluster unless it is there; write its kubeconfig to our own file, never to ~/.kube/config."""
    layout.prepare()
    (layout.config / "audit-policy.json").write_text(rendering.audit_policy())
    path = layout.config / "kind.json"
    path.write_text(config(layout))
    if CONTEXT not in _run("kind", "get", "clusters").split():
        scratch = layout.config / "kind.kubeconfig"
        with step("creating the kind cluster"):
            create = ("kind", "create", "cluster", "--name", CONTEXT, "--config", str(path), "--wait", "120s")
            image = os.environ.get(IMAGE_VARIABLE)
            _run(*create, "--kubeconfig", str(scratch), *(("--image", image) if image else ()))
    kubeconfig = _run("kind", "get", "kubeconfig", "--name", CONTEXT)
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text(own_context(kubeconfig))
    _keep_credentials(layout, kubeconfig)
    if shutil.which("kubectl") is None:
        golang.build(layout, (golang.KUBECTL,))


def _keep_credentials(layout: Layout, kubeconfig: str) -> None:
    """What the commands for fake GPUs and nodes need, in the places where a node of our own has it."""
    found = credentials(kubeconfig)
    for identity in ("cluster", "kwok"):
        for suffix, field in (("crt", "client-certificate-data"), ("key", "client-key-data")):
            path = layout.pki / f"{identity}.{suffix}"
            path.touch(mode=0o600)
            path.write_bytes(base64.b64decode(found[field]))
    authority = base64.b64decode(found["certificate-authority-data"])
    (layout.pki / "ca.crt").write_bytes(authority)
    pair = ((layout.pki / f"kwok.{suffix}").read_bytes() for suffix in ("crt", "key"))
    path = layout.config / "kwok.kubeconfig"
    path.touch(mode=0o600)
    path.write_text(certificates.kubeconfig(found["server"], authority, *pair))
    known = settings.load(layout)
    known.backend, known.server, known.node = "kind", found["server"], f"{CONTEXT}-control-plane"
    settings.save(layout, known)


def credentials(kubeconfig: str) -> dict[str, str]:
    """The server and the three base64 fields of kind's kubeconfig, which has one cluster and one user."""
    fields = ("server", "certificate-authority-data", "client-certificate-data", "client-key-data")
    found = {name: re.search(rf"^\s*{name}: (\S+)$", kubeconfig, re.MULTILINE) for name in fields}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise LocalClusterError(f"kind's kubeconfig lacks {', '.join(missing)}; delete the cluster and create it again")
    return {name: match[1] for name, match in found.items() if match is not None}


def down(layout: Layout) -> list[str]:
    """Delete the kind cluster; what is left of it (nothing, if all is well)."""
    with step("deleting the kind cluster"):
        processes.stop(layout, ["kwok"])
        scratch = layout.config / "kind.kubeconfig"
        _run("kind", "delete", "cluster", "--name", CONTEXT, "--kubeconfig", str(scratch))
    for path in layout.passing:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return leftovers()


def leftovers() -> list[str]:
    """Containers of the kind cluster that exist."""
    label = f"label=io.x-k8s.kind.cluster={CONTEXT}"
    names = _run("docker", "ps", "--all", "--filter", label, "--format", "{{.Names}}").split()
    return [f"container: {name}" for name in names]


def build(dockerfile: Path, name: str, context: Path) -> None:
    """Build with Docker, then load the image into the kind node."""
    with step(f"building image {name}"):
        _run("docker", "build", "--tag", name, "--file", str(dockerfile), str(context))
    with step(f"loading image {name} into the kind node"):
        _run("kind", "load", "docker-image", name, "--name", CONTEXT)


def build_project_images(layout: Layout) -> None:
    """Both images of this repository, if their inputs changed since they were loaded into this very node."""
    node = _run("docker", "inspect", "--format", "{{.Id}}", f"{CONTEXT}-control-plane").strip()
    for image in PROJECT_IMAGES:
        stamp, wanted = stamp_path(layout, image), f"{node} {fingerprint(image)}"
        if not stamp.exists() or stamp.read_text() != wanted:
            build(REPOSITORY / image.dockerfile, image.name, REPOSITORY)
            stamp.write_text(wanted)


def _run(*command: str) -> str:
    done = subprocess.run(
        # our Dockerfiles need BuildKit, which older clients of Docker have and do not use unasked
        command,
        capture_output=True,
        text=True,
        timeout=CREATE_SECONDS,
        env={**os.environ, "DOCKER_BUILDKIT": "1"},
        check=False,
    )
    if done.returncode != 0:
        raise LocalClusterError(f"{' '.join(command[:4])} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout
