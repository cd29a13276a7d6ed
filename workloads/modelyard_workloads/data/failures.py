"""Errors of files and networks in words that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from modelyard_workloads.exits import DataError

# no second try makes these better
GIVE_UP = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@contextlib.contextmanager
def blamed(subject: str, address: str) -> Iterator[None]:
    """Turn errors of files and networks into a DataError that says what to do."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        detail = str(error) if address.startswith("example://") else "there is nothing there"
        raise DataError(f"{subject}.uri: {address}: {detail}") from None
    except ValueError as error:
        raise DataError(f"{subject}.uri: {address}: {error}") from None
    except Exception as error:
        if is_denied(error):
            hint = f"the Secret of {subject}.secretRef must give access to it"
            raise DataError(f"{subject}.uri: {address}: access denied; {hint}") from None
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{subject}.uri: {address} cannot be read: {said}") from None


def is_denied(error: Exception) -> bool:
    """Did the other side refuse these credentials?"""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    words = ("ACCESS_DENIED", "AccessDenied", "HTTP response code 403", "HTTP status 403", "PERMISSION_DENIED")
    wrong_keys = ("INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "InvalidAccessKeyId", "UNAUTHENTICATED")
    said = str(error)
    return isinstance(error, PermissionError) or status in (401, 403) or any(w in said for w in words + wrong_keys)
