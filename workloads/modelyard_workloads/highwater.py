"""The highest step that a training has ever reached: steps up to it are done again, not progress.

`<output>/highest-step.json` is rewritten in place at most ten times a second: no fsync, since a lost mark costs nothing
but a slightly flattering account. Every attempt makes a new file, so that a zombie of an earlier one writes into a file
that has no name any more.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

from modelyard_workloads.durable import replace_file

logger = logging.getLogger(__name__)

FILE_NAME = "highest-step.json"
_INTERVAL_SECONDS = 0.1


class HighWater:
    """The mark of one training, kept by rank 0."""

    def __init__(self, output: Path, uid: str) -> None:
        """Raises OSError when the output cannot be written."""
        self._uid = uid
        path = output / FILE_NAME
        self.before = self._read(path)  # reached by the attempts before this one
        self._highest = self.before
        self._written_at = 0.0
        replace_file(path, self._content())
        self._file = path.open("r+b", buffering=0)

    def reached(self, step: int) -> None:
        """Note a step. A volume that refuses is said once, and the training goes on."""
        self._highest = max(self._highest, step)
        now = time.monotonic()
        if now - self._written_at < _INTERVAL_SECONDS or self._highest == self.before:
            return
        try:
            os.pwrite(self._file.fileno(), self._content(), 0)
            self._written_at = now
        except OSError as error:
            logger.warning("%s cannot be written: %s", FILE_NAME, error)
            self._written_at = float("inf")

    def _content(self) -> bytes:
        """Always as long as before, so that it can be replaced in place."""
        return f'{{"step": {self._highest:>12}, "uid": {json.dumps(self._uid)}}}\n'.encode()

    def _read(self, path: Path) -> int:
        try:
            content = json.loads(path.read_bytes())
            return int(content["step"]) if content["uid"] == self._uid else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
