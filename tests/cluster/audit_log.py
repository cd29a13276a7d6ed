"""The API server's audit log: who wrote what, whoever it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MUTATING = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True)
class Entry:
    """One request that was answered. `name` is empty where a POST names a collection."""

    verb: str
    resource: str
    subresource: str
    namespace: str
    name: str
    user_agent: str
    code: int
    path: str

    @property
    def mutating(self) -> bool:
        return self.verb in MUTATING and self.code < 400

    def __str__(self) -> str:
        place = "/".join(part for part in (self.resource, self.name, self.subresource) if part)
        return f"{self.verb} {place} by {self.user_agent.split()[0]} -> {self.code}"


class AuditLog:
    """Reads on from where it was when it was made; the file may be rotated away meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size

    def entries(self, namespace: str) -> Iterator[Entry]:
        """What was recorded of one namespace since the beginning; the last lines may still be on their way."""
        if self._path.stat().st_size < self._offset:
            self._offset = 0
        with self._path.open("rb") as log:
            log.seek(self._offset)
            for line in log:
                if f'"namespace":"{namespace}"'.encode() in line and line.endswith(b"\n"):
                    yield _entry(json.loads(line))


def _entry(line: dict[str, object]) -> Entry:
    ref, status = line.get("objectRef") or {}, line.get("responseStatus") or {}
    assert isinstance(ref, dict) and isinstance(status, dict)
    return Entry(
        verb=str(line["verb"]),
        resource=str(ref.get("resource", "")),
        subresource=str(ref.get("subresource", "")),
        namespace=str(ref.get("namespace", "")),
        name=str(ref.get("name", "")),
        user_agent=str(line.get("userAgent", "")),
        code=int(status.get("code", 0)),
        path=str(line["requestURI"]),
    )
