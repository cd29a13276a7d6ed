"""API keys: who may send requests. Every route but health asks for one, where they are switched on.

The keys are the files of a directory (a Secret as a volume): their content without the white space around it. They are
read again while the server runs, so a key that was added or taken away counts within `REREAD_SECONDS` of the kubelet's
update. Keys are compared by their hashes, in constant time: the time of an answer tells nothing of a key.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from time import monotonic

from modelyard_workloads.serve.errors import Unauthorized

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/", "/v2/health/live", "/v2/health/ready", "/v2/health/load"})
"""What the kubelet and the operator ask, who have no key; nothing of a model or a request is told there."""
REREAD_SECONDS = 10.0
_MAX_KEY_BYTES = 4096


class ApiKeys:
    """The keys in a directory. Without any, nobody may send requests."""

    def __init__(self, directory: Path, clock: Callable[[], float] = monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._read_at = clock()
        self._hashes = self._read()
        if not self._hashes:
            log.warning("no API key in %s: every request will be refused", directory)

    def check(self, headers: Iterable[tuple[str, str]]) -> None:
        """Raises Unauthorized unless one of the headers `authorization` (Bearer) and `x-api-key` holds a key.

        Names are in lower case.
        """
        given = [key for name, value in headers if (key := _key(name, value))]
        if not given:
            raise Unauthorized("an API key is needed; send Authorization: Bearer KEY, or x-api-key: KEY")
        now = self._clock()
        if now - self._read_at >= REREAD_SECONDS:
            self._read_at, self._hashes = now, self._read()
        # all are compared, whatever the first one says
        matches = [hmac.compare_digest(_hash(key), known) for key in given for known in self._hashes]
        if not any(matches):
            raise Unauthorized("the API key is not known")

    def _read(self) -> list[bytes]:
        try:
            files = [path for path in sorted(self._directory.iterdir()) if path.is_file() and path.name[0] != "."]
            keys = [path.read_bytes()[:_MAX_KEY_BYTES].strip() for path in files]
        except OSError as error:
            log.error("the API keys cannot be read: %s", error.strerror)
            return []
        return [_hash(key) for key in keys if key]


def _key(name: str, value: str) -> bytes:
    if name == "x-api-key":
        return value.strip().encode("latin-1", errors="replace")
    scheme, _, key = value.partition(" ")
    if name == "authorization" and scheme.lower() == "bearer":
        return key.strip().encode("latin-1", errors="replace")
    return b""


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
