"""What a cluster leaves on the machine: looked for from outside, so that `down` can be held to its promise."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from localcluster import network, processes
from localcluster.layout import Layout

NETNS = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")
CNI_RESULTS = Path("/var/lib/cni/results")
CONTAINER_LOGS = Path("/var/log/containers")
KUBELET_FILES = tuple(
    Path("/var/lib/kubelet/device-plugins") / name for name in ("kubelet.sock", "kubelet_internal_checkpoint")
)
HOSTS = Path("/etc/hosts")
HOSTS_MARK = "modelyard-local"


@dataclass(frozen=True)
class Leftover:
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


def find(layout: Layout) -> list[Leftover]:
    """Everything of the cluster that is on the machine now. A running cluster is one long list of leftovers."""
    found = [Leftover("process", f"{process.pid} ({process.part})") for process in processes.running(layout)]
    found += [Leftover("process in a pod's cgroup", str(pid)) for pid in pod_processes()]
    found += [Leftover("cgroup", str(path)) for path in pod_cgroups()]
    found += [Leftover("mount", path) for path in present_mounts(layout)]
    found += [Leftover("network namespace", str(path)) for path in network_namespaces()]
    found += [Leftover("network interface", name) for name in network.present_interfaces()]
    for command in network.TABLES:
        script = network.removal_script(network.saved_rules(command))
        found += [Leftover(f"{command} rule", line) for line in script.splitlines() if line.startswith(("-D", "-X"))]
    found += [Leftover("line of /etc/hosts", line) for line in hosts_lines(HOSTS.read_text())]
    found += [Leftover("state", str(path)) for path in layout.passing if path.exists()]
    found += [Leftover("CNI result", str(path)) for path in cni_results()]
    found += [Leftover("kubelet's file", str(path)) for path in kubelet_files()]
    found += [Leftover("log link", str(path)) for path in container_logs(layout)]
    return found


def mounts(table: str, layout: Layout) -> list[str]:
    """From /proc/mounts: mount points below the cache and of pods' network namespaces, the innermost first."""
    points = [line.split()[1].encode().decode("unicode_escape") for line in table.splitlines() if line.strip()]
    prefixes = (f"{layout.root}/", f"{NETNS}/cni-")
    return sorted((point for point in points if point.startswith(prefixes)), reverse=True)


def present_mounts(layout: Layout) -> list[str]:
    return mounts(Path("/proc/mounts").read_text(), layout)


def network_namespaces() -> list[Path]:
    return sorted(NETNS.glob("cni-*")) if NETNS.exists() else []


def pod_cgroups() -> list[Path]:
    """Top directories that the kubelet made for pods: cgroup v2 has one, v1 one per controller."""
    return sorted(path for path in (*CGROUPS.glob("kubepods"), *CGROUPS.glob("*/kubepods")) if path.is_dir())


def pod_processes() -> list[int]:
    """Processes in the pods' cgroups."""
    found: set[int] = set()
    for top in pod_cgroups():
        for directory, _, files in os.walk(top):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):
                    found.update(int(pid) for pid in (Path(directory) / "cgroup.procs").read_text().split())
    return sorted(found)


def hosts_lines(text: str) -> list[str]:
    """Lines of /etc/hosts that name our node."""
    return [line for line in text.splitlines() if HOSTS_MARK in line.partition("#")[0].split()[1:]]


def cni_results() -> list[Path]:
    """The network library's notes on our pods: modelyard-<container>-eth0, and the loopback of the same containers."""
    if not CNI_RESULTS.exists():
        return []
    bridges = sorted(CNI_RESULTS.glob("modelyard-*"))
    loopbacks = (CNI_RESULTS / f"cni-loopback-{path.name.split('-')[1]}-lo" for path in bridges)
    return [*bridges, *(path for path in loopbacks if path.exists())]


def kubelet_files() -> list[Path]:
    """What the kubelet puts outside its root directory. Only one kubelet can run on a machine, for its ports."""
    return [path for path in KUBELET_FILES if path.exists()]


def container_logs(layout: Layout) -> list[Path]:
    """The kubelet's links to logs below our cache."""
    if not CONTAINER_LOGS.exists():
        return []
    ours = f"{layout.root}/"
    links = (path for path in CONTAINER_LOGS.iterdir() if path.is_symlink())
    return sorted(path for path in links if str(path.readlink()).startswith(ours))
