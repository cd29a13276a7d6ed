"""Files that survive a crash: hashing, fsync, and directories that are complete or not there.

Used by checkpoints and artifacts. The rule of both: write into a hidden temporary directory beside the final one,
fsync every file and the directory, rename, fsync the parent. A reader therefore sees either nothing or everything,
whatever moment the machine lost power.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

TEMPORARY_PREFIX = ".tmp-"
_CHUNK = 1 << 20


class Fenced(RuntimeError):
    """Another attempt (or another training) owns the output now; this process must not write any more."""


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, UTF-8. Raises ValueError on NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file's content, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fsync_path(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and fsync it. Raises OSError (a full disk, a read-only volume)."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Replace a small file atomically: readers see the old content or the new one."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}")
    write_file(temporary, content)
    temporary.replace(path)
    fsync_path(path.parent)


def make_temporary_directory(parent: Path, tag: str) -> Path:
    """A fresh hidden directory `.tmp-<tag>` under `parent`; what an earlier process left under that name is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f"{TEMPORARY_PREFIX}{tag}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    return temporary


def publish_directory(temporary: Path, final: Path) -> None:
    """Make a finished temporary directory visible under its final name, durably. Raises OSError when `final` already
    has content.
    """
    for path in sorted(temporary.rglob("*")):
        fsync_path(path)
    fsync_path(temporary)
    temporary.rename(final)
    fsync_path(final.parent)


class Fence:
    """`<output>/fence.json`: who may write below this output, as `{"attempt": n, "uid": "<training's uid>"}`.

    A pod of attempt 1 that lost its network may come back while attempt 2 trains. Every write is therefore preceded by
    `check()`. The uid is part of the fence because a training that was deleted and applied again starts from attempt 1
    on the retained volume: it takes the output over from the earlier training, whose processes can then not write
    either.
    """

    def __init__(self, output: Path, attempt: int, uid: str) -> None:
        self._path = output / "fence.json"
        self.place = str(output)
        self._attempt = attempt
        self._mine = {"attempt": attempt, "uid": uid}

    def acquire(self) -> None:
        """Take the output over. Raises Fenced when a higher attempt of the same training was here already."""
        current = self._read()
        if current is not None and current.get("uid") == self._mine["uid"]:
            attempt = current.get("attempt")
            if isinstance(attempt, int) and attempt > self._attempt:
                raise Fenced(f"attempt {self._attempt} may not write to {self.place}: attempt {attempt} was here")
        if current != self._mine:
            self._replace(canonical_json(self._mine))

    def check(self) -> None:
        """Raise Fenced unless this process still owns the output."""
        current = self._read()
        if current != self._mine:
            raise Fenced(f"{self.place} is owned by {current}, this process is {self._mine}: nothing more is written")

    def _read(self) -> dict[str, Any] | None:
        content = self._load()
        if content is None:
            return None
        try:
            fence = json.loads(content)
        except ValueError:
            return {}  # unreadable: not ours, and acquire() may replace it
        return fence if isinstance(fence, dict) else {}

    def _load(self) -> bytes | None:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _replace(self, content: bytes) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self._path, content)
