"""Which cluster this machine can have: kind where Docker answers, else a node of its own, else an explanation."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from localcluster.layout import LocalClusterError

Backend = Literal["kind", "node"]


@dataclass(frozen=True)
class Machine:
    """What the choice depends on."""

    docker_answers: bool
    has_kind: bool
    is_linux: bool
    is_root: bool
    has_go: bool
    has_apt: bool

    @classmethod
    def inspect(cls) -> "Machine":
        """This machine. A Docker client without a daemon behind it does not count."""
        return cls(
            docker_answers=_docker_answers(),
            has_kind=shutil.which("kind") is not None,
            is_linux=Path("/proc/self/environ").exists(),
            is_root=os.geteuid() == 0,
            has_go=shutil.which("go") is not None,
            has_apt=shutil.which("apt-get") is not None,
        )


def choose(machine: Machine) -> Backend:
    """kind, or a node of our own; LocalClusterError with everything that is missing for either."""
    if machine.docker_answers and machine.has_kind:
        return "kind"
    lacking = []
    if not machine.is_linux:
        lacking.append("Linux")
    if not machine.is_root:
        lacking.append("root (try `sudo -E make cluster`)")
    if not machine.has_go:
        lacking.append("Go 1.26 or newer on PATH (https://go.dev/dl)")
    if not machine.has_apt:
        lacking.append("apt (Debian or a relative of it)")
    if not lacking:
        return "node"
    docker = "it answers" if machine.docker_answers else "no Docker daemon answers (`docker info`)"
    kind = "it is installed" if machine.has_kind else "missing (https://kind.sigs.k8s.io, one binary)"
    raise LocalClusterError(
        "no local cluster can be made on this machine. One of these two is needed:\n"
        f"  kind in Docker: Docker: {docker}; kind: {kind}\n"
        f"  a node of its own: missing {', '.join(lacking)}"
    )


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
