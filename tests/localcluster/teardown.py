"""`down`: end everything, take back everything, keep binaries, images and build caches."""

import contextlib
import shutil
import subprocess
import time
from pathlib import Path

from localcluster import leftovers, network, processes, settings
from localcluster.images import ctr
from localcluster.layout import Layout, LocalClusterError
from localcluster.progress import say, step

BEFORE_CONTAINERD = (
    *("kwok", "volumes", "kubelet", "kube-proxy", "dns", "buildkitd"),
    *("kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"),
)
PATIENCE_SECONDS = 5.0
# made by the kubelet and the network plugins outside our cache; removed when empty, the innermost first
SHARED_DIRECTORIES = tuple(
    Path(path)
    for path in (
        *("/var/lib/kubelet/device-plugins", "/var/lib/kubelet", "/var/log/containers"),
        *("/var/lib/cni/results", "/var/lib/cni"),
    )
)


def down(layout: Layout) -> list[leftovers.Leftover]:
    """Stop the cluster and remove its state; what is left afterwards (nothing, if all is well)."""
    with step("stopping the local cluster"):
        processes.stop(layout, BEFORE_CONTAINERD, PATIENCE_SECONDS)
        _empty_containerd(layout)
        processes.stop(layout, ["containerd"])
        _end_stragglers(layout)
        _unmount(layout)
        for namespace in leftovers.network_namespaces():
            namespace.unlink(missing_ok=True)
        network.remove_bridge()
        network.remove_rules()
        settings.set_kernel(settings.load(layout).kernel)
        _remove_cgroups()
        for path in (*leftovers.cni_results(), *leftovers.kubelet_files(), *leftovers.container_logs(layout)):
            path.unlink(missing_ok=True)
        for directory in SHARED_DIRECTORIES:
            with contextlib.suppress(OSError):  # not there, or in use by something else
                directory.rmdir()
        mounted = leftovers.present_mounts(layout)
        for path in layout.passing:
            # never delete through a mount that would not go: it may lead to files of the user's
            if not any(point.startswith(str(path)) for point in mounted):
                remove(path)
    return _settled(layout)


def purge(layout: Layout) -> list[leftovers.Leftover]:
    """`down`, and the binaries, images and build caches too."""
    found = down(layout)
    if not found:
        remove_cache(layout)
    return found


def remove_cache(layout: Layout) -> None:
    """What outlives `down`, in the cache directory alone."""
    with step(f"removing {layout.root}"):
        for path in (*layout.lasting, layout.log):
            remove(path)
        for lock in layout.root.glob("*.lock"):
            lock.unlink()
        with contextlib.suppress(OSError):  # something of the user's own is in it
            layout.root.rmdir()


def _empty_containerd(layout: Layout) -> None:
    """Kill all containers and forget them; images and build caches stay."""
    if not any(process.is_main and process.part == "containerd" for process in processes.running(layout)):
        return
    try:
        containers = ctr(layout, "containers", "list", "--quiet", timeout=30).split()
        tasks = task_pids(ctr(layout, "tasks", "list", timeout=30))
        if tasks:
            processes.end([*tasks.values(), *leftovers.pod_processes()], 2.0)
            _ctr_tolerant(layout, "tasks", "delete", "--force", *tasks)
        if containers:
            _ctr_tolerant(layout, "containers", "delete", *containers)
    except (LocalClusterError, subprocess.TimeoutExpired) as error:
        say(f"containerd does not answer ({error}): ending its containers by force")


def task_pids(listing: str) -> dict[str, int]:
    """Task id to first process id, from `ctr tasks list`: a header, then lines of TASK PID STATUS."""
    rows = (line.split() for line in listing.splitlines()[1:])
    return {row[0]: int(row[1]) for row in rows if len(row) >= 3 and row[1] != "0"}


def _ctr_tolerant(layout: Layout, *arguments: str) -> None:
    try:
        ctr(layout, *arguments, timeout=60)
    except LocalClusterError as error:
        if "not found" not in str(error):
            say(str(error))


def _end_stragglers(layout: Layout) -> None:
    """Containers and shims that outlived containerd."""
    pids = leftovers.pod_processes() + [process.pid for process in processes.running(layout)]
    processes.end(pids, 2.0)


def _unmount(layout: Layout) -> None:
    for point in leftovers.present_mounts(layout):
        done = subprocess.run(["umount", point], capture_output=True, timeout=60, check=False)
        if done.returncode != 0:
            subprocess.run(["umount", "--lazy", point], capture_output=True, timeout=60, check=False)


def _remove_cgroups() -> None:
    for top in leftovers.pod_cgroups():
        directories = sorted((path for path in top.rglob("*") if path.is_dir()), reverse=True)
        for directory in [*directories, top]:
            with contextlib.suppress(OSError):  # busy for a moment: reported by `leftovers` if it stays
                directory.rmdir()


def remove(path: Path) -> None:
    """A file, a link or a whole directory; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _settled(layout: Layout, patience: float = 5.0) -> list[leftovers.Leftover]:
    """What is left once the kernel has had a moment to finish what was asked of it."""
    deadline = time.monotonic() + patience
    while (found := leftovers.find(layout)) and time.monotonic() < deadline:
        _remove_cgroups()
        time.sleep(0.2)
    return found
