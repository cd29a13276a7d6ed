"""What this container may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores() -> int:
    """CPU cores this container may use: the affinity mask, lowered by the cgroup's quota, at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
