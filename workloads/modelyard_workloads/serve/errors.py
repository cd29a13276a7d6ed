"""What can go wrong with a request or with loading, in words of no protocol; adapters map them in one table each.

Messages are read by the client: they name the field, what was expected and what to write, and never a path, a
traceback or another client's data.
"""

from __future__ import annotations

import reprlib

_SHOWN = 64  # characters of a client's own text that are repeated in a message


class ServeError(Exception):
    """Base of every answer that is not a result."""


class InvalidInput(ServeError):
    """The request cannot be understood or does not fit the model."""


class NotFound(ServeError):
    """No such model, version or route."""


class Unauthorized(ServeError):
    """The request has no API key, or one that is not known."""


class PayloadTooLarge(ServeError):
    """The body, or what it decompresses to, is over the limit."""


class UnsupportedMedia(ServeError):
    """The body's type or its compression is one that the server does not read."""


class BodyTimeout(ServeError):
    """The client did not send its body within the request's time."""


class NotReady(ServeError):
    """The model is not loaded yet (or the server is about to end)."""


class Saturated(ServeError):
    """The queue is full; try again, or elsewhere."""


class DeadlineExceeded(ServeError):
    """No answer within the request's time; the work was dropped."""


class InferenceFailed(ServeError):
    """The model failed on this very request, run alone. The cause is in the server's log only."""


class LoadFailure(Exception):
    """The model cannot be served; `reason` is the CamelCase word for a status."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def without_text(error: Exception) -> Exception:
    """The type and the place of an error, for a log: its text may quote a client's values."""
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def shown(value: object) -> str:
    """A client's own value, quoted, escaped and cut, for a message; quick however large the value is."""
    quoted = _BRIEF.repr(value)
    return quoted if len(quoted) <= _SHOWN else quoted[:_SHOWN] + "…"


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = _SHOWN
_BRIEF.maxlist = _BRIEF.maxdict = 4
_BRIEF.maxlevel = 2
