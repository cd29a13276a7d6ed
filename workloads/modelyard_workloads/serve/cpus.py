"""How many CPUs this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))


def available_cpus() -> int:
    """The smaller of the CPUs the process may run on and the quota of its container (rounded up), at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota() -> float | None:
    try:
        if _CGROUP_V2.exists():
            limit, period = _CGROUP_V2.read_text().split()
        else:
            limit, period = (path.read_text().strip() for path in _CGROUP_V1)
        return None if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError):
        return None
