"""Images from Dockerfiles straight into the node's store, and the stamps that tell whether one must be built again."""

import hashlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from localcluster import components, golang
from localcluster.images import ctr, ensure_python_image, stored_images
from localcluster.layout import REPOSITORY, Layout, LocalClusterError
from localcluster.processes import log_tail, start
from localcluster.progress import step

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
BUILD_SECONDS = 3600
SKIPPED = ("__pycache__", ".egg-info", ".mypy_cache", ".ruff_cache")


@dataclass(frozen=True)
class Image:
    """`dockerfile` and `inputs` (files and folders that end up in the image) are relative to the repository."""

    name: str
    dockerfile: str
    inputs: tuple[str, ...]


COMMON_INPUTS = ("pyproject.toml", "README.md", "LICENSE", ".dockerignore")
PROJECT_IMAGES = (
    Image(
        "localhost/modelyard/operator:dev",
        "operator/Dockerfile",
        (*COMMON_INPUTS, "operator/Dockerfile", "operator/modelyard_operator"),
    ),
    Image(
        "localhost/modelyard/workloads:dev",
        "workloads/Dockerfile",
        (*COMMON_INPUTS, "workloads/Dockerfile", "workloads/modelyard_workloads"),
    ),
)


def fingerprint(image: Image, repository: Path = REPOSITORY) -> str:
    """Hex SHA-256 over the names and contents of everything that goes into the image."""
    digest = hashlib.sha256()
    for name in image.inputs:
        for path in _files(repository / name):
            digest.update(f"{path.relative_to(repository)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = (each for each in path.rglob("*") if each.is_file())
    return sorted(each for each in found if not any(part.endswith(SKIPPED) for part in each.parts))


def stamp_path(layout: Layout, image: Image) -> Path:
    return layout.images / f"{image.name.replace('/', '_').replace(':', '_')}.built-from"


def outdated(layout: Layout, image: Image, stored: set[str]) -> bool:
    """Whether the image is not in the store, or was built from other inputs."""
    stamp = stamp_path(layout, image)
    return image.name not in stored or not stamp.exists() or stamp.read_text() != fingerprint(image)


def build_project_images(layout: Layout) -> None:
    """Both images of this repository, if their inputs changed."""
    stored = stored_images(layout)
    for image in PROJECT_IMAGES:
        if outdated(layout, image, stored):
            inputs = fingerprint(image)
            build(layout, REPOSITORY / image.dockerfile, image.name, REPOSITORY)
            stamp_path(layout, image).write_text(inputs)


def build(layout: Layout, dockerfile: Path, name: str, context: Path) -> None:
    """Build and unpack, uncompressed: the first pod does not spend 48 s on unpacking torch."""
    if not dockerfile.is_file():
        raise LocalClusterError(f"{dockerfile}: no such Dockerfile")
    if ":" not in name.rpartition("/")[2]:
        raise LocalClusterError(f"{name}: a tag is needed, for example {name}:dev")
    ensure_python_image(layout, dict(os.environ))
    _ensure_buildkit(layout)
    log = layout.log / f"image-{name.replace('/', '_').replace(':', '_')}.log"
    with step(f"building image {name}"), log.open("w") as output:
        done = subprocess.run(
            _command(layout, dockerfile, name, context),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=BUILD_SECONDS,
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise LocalClusterError(f"building {name} failed; the whole output is in {log}, its end:\n{tail}")


def _command(layout: Layout, dockerfile: Path, name: str, context: Path) -> list[str]:
    proxies = [f"--opt=build-arg:{key}={os.environ[key]}" for key in PROXIES if key in os.environ]
    return [
        *(str(layout.bin / "buildctl"), f"--addr=unix://{layout.buildkit_socket}"),
        *("build", "--progress=plain", "--frontend=dockerfile.v0", "--opt=image-resolve-mode=local"),
        *(f"--local=context={context}", f"--local=dockerfile={dockerfile.parent}"),
        *(f"--opt=filename={dockerfile.name}", *proxies),
        f"--output=type=image,name={name},unpack=true,compression=uncompressed",
    ]


def _ensure_buildkit(layout: Layout) -> None:
    golang.build(layout, tuple(binary for binary in golang.NODE_BINARIES if binary.module == "buildkit"))
    ctr(layout, "version")  # says what is wrong when there is no cluster
    start(layout, components.buildkit(layout))
    deadline = time.monotonic() + 60
    probe = [str(layout.bin / "buildctl"), f"--addr=unix://{layout.buildkit_socket}", "debug", "workers"]
    while subprocess.run(probe, capture_output=True, timeout=60, check=False).returncode != 0:
        if time.monotonic() > deadline:
            raise LocalClusterError(f"buildkitd does not answer; its log:\n{log_tail(layout, 'buildkitd')}")
        time.sleep(0.2)
