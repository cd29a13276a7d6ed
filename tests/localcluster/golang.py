"""Binaries from Go modules: built once per content of the module files, to a temporary name and then renamed."""

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from localcluster.layout import KUBERNETES_VERSION, SOURCES, Layout, LocalClusterError
from localcluster.progress import step

GO_MINIMUM = (1, 26)
BUILD_SECONDS = 3600


@dataclass(frozen=True)
class Binary:
    """`package` of the module in go/<module>, linked with `ldflags`."""

    name: str
    module: str
    package: str
    ldflags: str = "-s -w"
    sources: tuple[str, ...] = field(default=())


def _kubernetes_ldflags() -> str:
    _, minor, _ = KUBERNETES_VERSION.split(".")
    flags = ["-s -w"]
    for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
        values = {"gitVersion": KUBERNETES_VERSION, "gitMajor": "1", "gitMinor": minor}
        flags += [f"-X {package}.{name}={value}" for name, value in values.items()]
    return " ".join(flags)


def _kubernetes(name: str) -> Binary:
    return Binary(name, "kube", f"k8s.io/kubernetes/cmd/{name}", _kubernetes_ldflags())


def _own_sources(module: str) -> tuple[str, ...]:
    """What stands in `go/<module>` for modules that are not to be had."""
    directory = SOURCES / "go" / module
    return tuple(sorted(str(path.relative_to(directory)) for path in directory.glob("*/**/*.go")))


NODE_BINARIES = (
    *(_kubernetes(name) for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")),
    *(_kubernetes(name) for name in ("kubelet", "kube-proxy", "kubectl")),
    Binary("coredns", "kube", "./dns", sources=("dns/main.go",)),
    Binary("pause", "kube", "./pause", sources=("pause/main.go",)),
    Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Binary("buildkitd", "buildkit", "github.com/moby/buildkit/cmd/buildkitd"),
    Binary("buildctl", "buildkit", "github.com/moby/buildkit/cmd/buildctl"),
)
KUBECTL = _kubernetes("kubectl")
KWOK = Binary("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok")
KUEUE = Binary("kueue", "kueue", "sigs.k8s.io/kueue/cmd/kueue")
TRAEFIK = Binary("traefik", "gateway", "github.com/traefik/traefik/v3/cmd/traefik", sources=_own_sources("gateway"))
KEDA = Binary("keda", "keda", "github.com/kedacore/keda/v2/cmd/operator")
KEDA_ADAPTER = Binary("keda-adapter", "keda", "github.com/kedacore/keda/v2/cmd/adapter")
METRICS_SERVER = Binary("metrics-server", "metrics", "sigs.k8s.io/metrics-server/cmd/metrics-server")
HELM = Binary("helm", "helm", "helm.sh/helm/v4/cmd/helm")


def build(layout: Layout, binaries: tuple[Binary, ...]) -> None:
    """Build those whose inputs changed since they were built. Interrupted at any moment, the next call goes on."""
    missing = [binary for binary in binaries if not is_current(layout, binary)]
    if not missing:
        return
    go = _find_go()
    layout.bin.mkdir(parents=True, exist_ok=True)
    layout.log.mkdir(parents=True, exist_ok=True)
    for binary in missing:
        with step(f"building {binary.name}"):
            _build_one(go, layout, binary)


def is_current(layout: Layout, binary: Binary) -> bool:
    """Whether the binary is there and was built from the module files as they are now."""
    stamp = stamp_path(layout, binary)
    return (layout.bin / binary.name).exists() and stamp.exists() and stamp.read_text() == fingerprint(binary)


def stamp_path(layout: Layout, binary: Binary) -> Path:
    return layout.bin / f".{binary.name}.built-from"


def fingerprint(binary: Binary) -> str:
    """Hex SHA-256 over the module files, own sources and flags of a binary."""
    digest = hashlib.sha256(f"{binary.package}\n{binary.ldflags}\n".encode())
    directory = SOURCES / "go" / binary.module
    for name in ("go.mod", "go.sum", *binary.sources):
        digest.update(f"{name}\n".encode())
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()


def _build_one(go: str, layout: Layout, binary: Binary) -> None:
    unfinished = layout.bin / f".{binary.name}.unfinished"
    log = layout.log / f"build-{binary.name}.log"
    # nice: minutes of compiling should not starve the tests, or the person, that work meanwhile
    command = [
        "nice",
        "-n",
        "19",
        go,
        "build",
        "-trimpath",
        "-ldflags",
        binary.ldflags,
        "-o",
        str(unfinished),
        binary.package,
    ]
    with log.open("w") as output:
        done = subprocess.run(
            command,
            cwd=SOURCES / "go" / binary.module,
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false"},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=BUILD_SECONDS,
            check=False,
        )
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LocalClusterError(f"building {binary.name} failed; the whole output is in {log}, its end:\n{tail}")
    stamp_path(layout, binary).unlink(missing_ok=True)
    unfinished.rename(layout.bin / binary.name)
    stamp_path(layout, binary).write_text(fingerprint(binary))


def go_version(text: str) -> tuple[int, int] | None:
    """(major, minor) from the output of `go version`; None when it has none (a development build)."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def _find_go() -> str:
    go = shutil.which("go")
    if go is None:
        raise LocalClusterError(
            f"Go is missing: install Go {GO_MINIMUM[0]}.{GO_MINIMUM[1]} or newer (https://go.dev/dl) and put it on PATH"
        )
    reported = subprocess.run([go, "version"], capture_output=True, text=True, timeout=60, check=True).stdout
    version = go_version(reported)
    toolchain = subprocess.run([go, "env", "GOTOOLCHAIN"], capture_output=True, text=True, timeout=60, check=True)
    if version is not None and version < GO_MINIMUM and toolchain.stdout.strip() == "local":
        raise LocalClusterError(
            f"{go} is {reported.strip()!r} and GOTOOLCHAIN=local forbids it to fetch a newer one: "
            f"install Go {GO_MINIMUM[0]}.{GO_MINIMUM[1]} or newer, or set GOTOOLCHAIN=auto"
        )
    return go
