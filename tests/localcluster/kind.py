"""The cluster in Docker by kind, with the same audit log, context name and commands as the node of our own."""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from localcluster import certificates, fakes, golang, kindstorage, processes, rendering, settings, teardown
from localcluster.api import Api
from localcluster.imagebuild import BUILD_SECONDS, PROJECT_IMAGES, fingerprint, stamp_path
from localcluster.layout import CONTEXT, REPOSITORY, Layout, LocalClusterError
from localcluster.progress import step

AUDIT_IN_NODE = "/var/log/kubernetes"
POLICY_IN_NODE = "/etc/kubernetes/modelyard-audit-policy.json"
NODE = f"{CONTEXT}-control-plane"
CREATE_SECONDS = 900
API_SECONDS = 120
AFRESH = "`make cluster-down cluster` starts afresh"
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
    if CONTEXT not in _run("kind", "get", "clusters").split():
        _create(layout)
    elif _run("docker", "inspect", "--format", "{{.State.Running}}", NODE).strip() != "true":
        with step("starting the kind node again"):
            _run("docker", "start", NODE)
    try:
        _settle(layout)
    except LocalClusterError as error:
        raise LocalClusterError(f"{error}\nif its creation was interrupted: {AFRESH}") from error
    if shutil.which("kubectl") is None:
        golang.build(layout, (golang.KUBECTL,))


def _settle(layout: Layout) -> None:
    """Keep the credentials of a cluster that is there; wait for it; have its claims and fake GPUs as ours are."""
    kubeconfig = _run("kind", "get", "kubeconfig", "--name", CONTEXT)
    layout.kubeconfig.touch(mode=0o600)
    layout.kubeconfig.write_text(own_context(kubeconfig))
    _keep_credentials(layout, kubeconfig)
    _wait_until_answering(Api(layout))
    kindstorage.share(Api(layout), NODE)
    fakes.restore_gpus(layout)


def _create(layout: Layout) -> None:
    path, scratch = layout.config / "kind.json", layout.config / "kind.kubeconfig"
    path.write_text(config(layout))
    (layout.config / "audit-policy.json").write_text(rendering.audit_policy())
    for old in layout.log.glob("audit*.log"):
        old.unlink()
    # the API server, root in its container, keeps owner and mode of a log that is there: whoever calls can read it
    layout.audit_log.touch()
    create = ("kind", "create", "cluster", "--name", CONTEXT, "--config", str(path), "--wait", "120s")
    image = os.environ.get(IMAGE_VARIABLE)
    with step("creating the kind cluster"):
        _run(*create, "--kubeconfig", str(scratch), *(("--image", image) if image else ()))


def _wait_until_answering(api: Api) -> None:
    deadline = time.monotonic() + API_SECONDS
    while not api.is_ready():
        if time.monotonic() > deadline:
            raise LocalClusterError(f"the kind cluster does not answer after {API_SECONDS} s")
        time.sleep(0.5)


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
    known.backend, known.server, known.node = "kind", found["server"], NODE
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
        teardown.remove(path)
    return leftovers()


def purge(layout: Layout) -> list[str]:
    """`down`, and the binaries and logs in our cache. Docker's images, build cache and the network "kind" stay."""
    found = down(layout)
    if not found:
        teardown.remove_cache(layout)
    return found


def leftovers() -> list[str]:
    """Containers of the kind cluster that exist."""
    label = f"label=io.x-k8s.kind.cluster={CONTEXT}"
    names = _run("docker", "ps", "--all", "--filter", label, "--format", "{{.Names}}").split()
    return [f"container: {name}" for name in names]


def build(dockerfile: Path, name: str, context: Path) -> None:
    """Build with Docker, then load the image into the kind node."""
    with step(f"building image {name}"):
        _run("docker", "build", "--tag", name, "--file", str(dockerfile), str(context), seconds=BUILD_SECONDS)
    with step(f"loading image {name} into the kind node"):
        _run("kind", "load", "docker-image", name, "--name", CONTEXT)


def build_project_images(layout: Layout) -> None:
    """Both images of this repository, if their inputs changed since they were loaded into this very node."""
    node = _run("docker", "inspect", "--format", "{{.Id}}", NODE).strip()
    for image in PROJECT_IMAGES:
        stamp, wanted = stamp_path(layout, image), f"{node} {fingerprint(image)}"
        if not stamp.exists() or stamp.read_text() != wanted:
            build(REPOSITORY / image.dockerfile, image.name, REPOSITORY)
            stamp.write_text(wanted)


def _run(*command: str, seconds: float = CREATE_SECONDS) -> str:
    # our Dockerfiles need BuildKit, which older clients of Docker have and do not use unasked
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment, check=False)
    except FileNotFoundError as error:
        raise LocalClusterError(f"{command[0]} is missing, and the cluster of this cache is one of kind's") from error
    if done.returncode != 0:
        raise LocalClusterError(f"{' '.join(command[:4])} failed: {(done.stderr or done.stdout).strip()[-1500:]}")
    return done.stdout
