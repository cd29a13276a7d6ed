"""What this container may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NO_LIMIT = 1 << 60  # version 1 says it by a number
_CGROUP_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def available_cores() -> int:
    """CPU cores this container may use: the affinity mask, lowered by the cgroup's quota, at least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def available_memory(processes: int = 1) -> int | None:
    """Bytes that this process may still take, as one of so many that share the container's limit; pages of files are
    not counted, since they can be given back. None where there is no limit.
    """
    limit = memory_limit()
    return None if limit is None else max(0, limit // processes - _own_memory())


def memory_limit() -> int | None:
    """Bytes that this container may use; None where there is no limit."""
    for path in _MEMORY_LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdecimal() and int(text) < _NO_LIMIT else None
    return None


def _own_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    return 0


def openmp_environment(threads: int) -> dict[str, str]:
    """OpenMP's settings for one process, to be in its environment before torch is imported.

    Threads of a team that wait do so asleep: spinning, as is the default, starves the thread they wait for as soon as
    the cores are shared (a batch of 32 took 181 ms instead of 17 ms beside other work on two cores), and burns the
    quota of a pod.
    """
    return {"OMP_NUM_THREADS": str(max(1, threads)), "OMP_WAIT_POLICY": "PASSIVE"}


def _quota() -> float | None:
    """Cores' worth of time per period, from cgroup v2 or v1; None where there is no limit."""
    try:
        if _CGROUP_V2.exists():
            limit, period = _CGROUP_V2.read_text().split()
        else:
            limit, period = (path.read_text().strip() for path in _CGROUP_V1)
        return None if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError):
        return None
