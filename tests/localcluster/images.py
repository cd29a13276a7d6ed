"""Images in the node's store: an OCI archive around one layer, and the stand-in for python:3.13-slim."""

import contextlib
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from localcluster.layout import Layout, LocalClusterError
from localcluster.progress import step
from localcluster.rendering import PAUSE_IMAGE

MEDIA = "application/vnd.oci.image"
PYTHON_IMAGE = "docker.io/library/python:3.13-slim"
PYTHON_SUITE = "trixie"  # the Debian release whose own Python is 3.13
PYTHON_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
RECIPE = "1"  # raise it when the steps below change
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PATH_VARIABLE = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "timeout", "default-timeout", "retries")


def write_archive(archive: Path, name: str, layer: Path, config: dict[str, object]) -> None:
    """One layer (a tar file) as an OCI image archive; `config` is the image's run configuration (Cmd, Env, …)."""
    with layer.open("rb") as data:
        diff = hashlib.file_digest(data, "sha256").hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{diff}"]}
    image = _json({"architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs})
    layers = [_descriptor("layer.v1.tar", diff, layer.stat().st_size)]
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _descriptor("config.v1+json", _sha256(image), len(image)),
            "layers": layers,
        }
    )
    entry = _descriptor("manifest.v1+json", _sha256(manifest), len(manifest))
    entry["annotations"] = {"io.containerd.image.name": name}
    small = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [entry]}),
        f"blobs/sha256/{_sha256(image)}": image,
        f"blobs/sha256/{_sha256(manifest)}": manifest,
    }
    with tarfile.open(archive, "w") as output:
        for path, blob in small.items():
            info = tarfile.TarInfo(path)
            info.size = len(blob)
            output.addfile(info, io.BytesIO(blob))
        output.add(layer, f"blobs/sha256/{diff}")


def _descriptor(media: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": f"{MEDIA}.{media}", "digest": f"sha256:{digest}", "size": size}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ctr(layout: Layout, *arguments: str, timeout: float = 600) -> str:
    """containerd's own command, in the kubelet's namespace; its output."""
    if not layout.containerd_socket.exists():
        raise LocalClusterError("no cluster is up; start one with `make cluster`")
    command = ["ctr", "--address", str(layout.containerd_socket), "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise LocalClusterError(f"ctr {' '.join(arguments[:3])} failed: {done.stderr.strip()[-400:]}")
    return done.stdout


def stored_images(layout: Layout) -> set[str]:
    """Names of the images in the node's store."""
    return set(ctr(layout, "images", "list", "--quiet").split())


def ensure_pause_image(layout: Layout) -> None:
    """The sandbox image: our `pause` binary alone. Named after its content, so it is imported once."""
    if PAUSE_IMAGE in stored_images(layout):
        return
    with _scratch(layout, "pause") as scratch:
        layer = scratch / "layer.tar"
        with tarfile.open(layer, "w") as output:
            output.add(layout.bin / "pause", "pause")
        archive = scratch / "image.tar"
        write_archive(archive, PAUSE_IMAGE, layer, {"Entrypoint": ["/pause"]})
        ctr(layout, "images", "import", str(archive))


def ensure_python_image(layout: Layout, environment: dict[str, str]) -> None:
    """The stand-in for python:3.13-slim, from Debian's packages, with the machine's CA bundle and pip settings.

    Its archive is kept in the cache: a store that was purged imports it in seconds instead of installing Debian again.
    """
    pip = pip_config(_machine_pip_settings(environment))
    bundle = CA_BUNDLE.read_bytes() if CA_BUNDLE.exists() else b""
    key = _sha256(f"{RECIPE} {PYTHON_SUITE} {PYTHON_PACKAGES}\n{pip}\n".encode() + bundle)[:12]
    archive = layout.images / f"python-{key}.tar"
    marker = layout.images / "python-imported"
    if PYTHON_IMAGE in stored_images(layout) and marker.exists() and marker.read_text() == key:
        return
    if not archive.exists():
        with step("making a stand-in for python:3.13-slim from Debian packages"):
            _bootstrap(layout, archive, pip)
    with step("importing python:3.13-slim into the node's store"):
        ctr(layout, "images", "import", str(archive))
    marker.write_text(key)


def _bootstrap(layout: Layout, archive: Path, pip: str) -> None:
    with _scratch(layout, "python") as scratch:
        (scratch / "pip.conf").write_text(pip)
        hooks = [
            f'cp {shlex.quote(str(scratch))}/pip.conf "$1/etc/pip.conf"',
            'ln -sf python3 "$1/usr/bin/python"',
            'rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED',  # as in the image that it stands for, pip may install
            'rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*',
        ]
        if CA_BUNDLE.exists():
            hooks.append(f'cp {CA_BUNDLE} "$1/etc/ssl/certs/"')
        layer = scratch / "layer.tar"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PYTHON_PACKAGES}"]
        command += [f"--customize-hook={hook}" for hook in hooks]
        done = subprocess.run(
            [*command, PYTHON_SUITE, str(layer)], capture_output=True, text=True, timeout=1800, check=False
        )
        if done.returncode != 0:
            raise LocalClusterError(f"mmdebstrap failed: {done.stderr.strip()[-800:]}")
        config: dict[str, object] = {"Cmd": ["python3"], "Env": [PATH_VARIABLE, "LANG=C.UTF-8"]}
        unfinished = scratch / "image.tar"
        write_archive(unfinished, PYTHON_IMAGE, layer, config)
        unfinished.chmod(0o600)  # an index URL can hold credentials
        for old in layout.images.glob("python-*.tar"):
            old.unlink()
        unfinished.rename(archive)


def pip_config(settings: Iterable[tuple[str, str]]) -> str:
    """pip.conf for inside the image: where to fetch from, and the CA bundle that the image has."""
    lines = ["[global]", f"cert = {CA_BUNDLE}", "disable-pip-version-check = true", "root-user-action = ignore"]
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in settings), ""])


def parse_pip_settings(listing: str) -> list[tuple[str, str]]:
    """From `pip config list` (lines such as global.index-url='…' and :env:.index-url='…'), what a build needs."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in PIP_SETTINGS:
            found["timeout" if name == "default-timeout" else name] = value.strip("'\"").replace("\\n", "\n    ")
    return sorted(found.items())


def _machine_pip_settings(environment: dict[str, str]) -> list[tuple[str, str]]:
    if shutil.which("pip3") is None:
        return []
    command = ["pip3", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    return parse_pip_settings(listing.stdout) if listing.returncode == 0 else []


@contextlib.contextmanager
def _scratch(layout: Layout, name: str) -> Iterator[Path]:
    directory = layout.images / f".{name}-{os.getpid()}"
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
