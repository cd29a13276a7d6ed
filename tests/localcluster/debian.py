"""The programs that the node needs from the machine, installed with apt where they are absent."""

import os
import shutil
import subprocess
from pathlib import Path

from localcluster.layout import LocalClusterError
from localcluster.progress import step

# program (on PATH, or a full path) -> Debian package
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "socat": "socat",
    "mmdebstrap": "mmdebstrap",
    "openssl": "openssl",
    "ip": "iproute2",
    "mount": "mount",
}
CNI_DIRECTORIES = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("bridge", "host-local", "loopback")
CNI_PACKAGE = "containernetworking-plugins"
APT_SECONDS = 1200


def missing_packages() -> list[str]:
    """Debian packages whose programs are not there."""
    absent = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if cni_plugins() is None:
        absent.append(CNI_PACKAGE)
    return sorted(set(absent))


def cni_plugins() -> Path | None:
    """The directory that has all network plugins that we use."""
    complete = (path for path in CNI_DIRECTORIES if all((path / name).exists() for name in CNI_PLUGINS))
    return next(complete, None)


def install() -> None:
    """Install what is missing; nothing happens when nothing is."""
    missing = missing_packages()
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise LocalClusterError(f"missing: {', '.join(missing)} (Debian's package names); install them and try again")
    with step(f"installing {' '.join(missing)}"):
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *missing)
    still = missing_packages()
    if still:
        raise LocalClusterError(f"apt-get installed {' '.join(missing)}, yet programs of {' '.join(still)} are missing")


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "--quiet", "--quiet", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        timeout=APT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise LocalClusterError(f"apt-get {arguments[0]} failed: {(done.stderr or done.stdout).strip()[-800:]}")
