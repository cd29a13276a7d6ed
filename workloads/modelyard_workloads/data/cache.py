"""Files on this machine's disk that are made once and kept: fetched data, examples, columns in a faster form."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from modelyard_workloads.data.failures import GIVE_UP
from modelyard_workloads.exits import DataError


def cache_directory(kind: str) -> Path:
    """Where files of this machine are kept: below XDG_CACHE_HOME, or the home directory's .cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "modelyard" / kind


def make_once(target: Path, make: Callable[[Path], None], *, directory: bool = False) -> Path:
    """`target`, complete: made by the first process that needs it while the others wait. Raises DataError when the
    disk refuses, and whatever `make` raises.
    """
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (target.parent / f"{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as folder:
                    temporary = Path(folder) / "content"
                    if directory:
                        temporary.mkdir()
                    make(temporary)
                    temporary.rename(target)
    except GIVE_UP:
        raise
    except OSError as error:
        raise DataError(
            f"{target.parent} cannot keep files of the data set: {error.strerror or error}; give the pod more room, or"
            " set XDG_CACHE_HOME to a larger volume"
        ) from None
    return target
