"""The last words of a server that cannot serve: the container's termination message."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from pathlib import Path

_DEFAULT = "/dev/termination-log"
_MESSAGE_BYTES = 1024
_TAIL_BYTES = 2048
_TAIL_LINES = 20


class LogTail(logging.Handler):
    """Keeps the last lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record; a traceback counts as its lines."""
        self._lines.extend(self.format(record).splitlines())

    def text(self) -> str:
        """The last lines, cut from the front."""
        return "\n".join(self._lines)


def write_termination_message(reason: str, message: str, log_tail: str) -> None:
    """Write `{"failure": …}` of at most 4096 bytes where the kubelet reads it.

    That is the file in MODELYARD_TERMINATION_LOG, else /dev/termination-log where a container has one.
    """
    failure = {
        "reason": reason,
        "message": _cut(message, _MESSAGE_BYTES),
        "logTail": _cut_front(log_tail, _TAIL_BYTES),
    }
    path = Path(os.environ.get("MODELYARD_TERMINATION_LOG", _DEFAULT))
    if str(path) == _DEFAULT and not path.exists():
        return
    try:
        path.write_text(_fitting(failure))
    except OSError as error:
        logging.getLogger(__name__).warning("no termination message: %s", error.strerror)


def _fitting(failure: dict[str, str]) -> str:
    # Escapes can make the JSON longer than its texts; the log's tail gives way.
    while len(text := json.dumps({"failure": failure}, ensure_ascii=False)) and len(text.encode()) > 4096:
        failure["logTail"] = failure["logTail"][len(failure["logTail"]) // 2 + 1 :]
    return text


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


def _cut_front(text: str, size: int) -> str:
    return text.encode()[-size:].decode(errors="ignore")
