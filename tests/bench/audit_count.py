"""Counts the mutating requests of one namespace in the API server's audit log, whoever made them."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

MUTATING = ("create", "update", "patch", "delete", "deletecollection")
SETTLED_SECONDS = 2.0
PATIENCE_SECONDS = 30.0


class AuditCount:
    """What is written to a namespace from now on. The log is held open, so that a rotation loses nothing."""

    def __init__(self, path: Path, namespace: str) -> None:
        self._path = path
        self._log = path.open("rb")
        self._log.seek(0, 2)
        self._mark = f'"namespace":"{namespace}"'.encode()
        self._rest = b""
        self.counts: Counter[str] = Counter()
        """`verb resource[/subresource]` -> requests that were carried out."""

    def settle(self) -> Counter[str]:
        """Read on until nothing new has come for two seconds: the log is written behind. Returns all counts so far."""
        due = time.monotonic() + PATIENCE_SECONDS
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < SETTLED_SECONDS and time.monotonic() < due:
            if self._read():
                quiet_since = time.monotonic()
            time.sleep(0.2)
        return self.counts.copy()

    def close(self) -> None:
        self._log.close()

    def _read(self) -> int:
        found = self._take(self._log.read())
        if self._path.stat().st_ino != self._inode():
            found += self._take(self._log.read())  # written between our last read and the rotation
            self._log.close()
            self._log = self._path.open("rb")
            found += self._take(self._log.read())
        return found

    def _inode(self) -> int:
        return Path(f"/proc/self/fd/{self._log.fileno()}").stat().st_ino

    def _take(self, data: bytes) -> int:
        *lines, self._rest = (self._rest + data).split(b"\n")
        found = 0
        for line in lines:
            if self._mark not in line:
                continue
            entry = json.loads(line)
            if entry["verb"] in MUTATING and int((entry.get("responseStatus") or {}).get("code", 0)) < 400:
                ref = entry["objectRef"]
                parts = (ref.get("resource", ""), ref.get("subresource", ""))
                self.counts[f"{entry['verb']} {'/'.join(part for part in parts if part)}"] += 1
                found += 1
        return found
