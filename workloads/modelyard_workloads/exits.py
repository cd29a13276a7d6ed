"""Exit codes of a training process and the exceptions that lead to them. Imports nothing heavy: the launcher uses it
too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SUCCESS = 0
FAILURE = 1
BAD_CONFIG = 64  # EX_USAGE: configuration or parameters
BAD_DATA = 65  # EX_DATAERR: dataset, initial weights or checkpoints
CHECKPOINTED = 75  # EX_TEMPFAIL: stopped by SIGTERM after a checkpoint; run me again
BAD_ENVIRONMENT = 78  # EX_CONFIG: the pod's environment (ranks, volumes, devices)

Ending = Literal["complete", "stopped", "failed"]
"""How an attempt ended: `stopped` goes on later, and perhaps so does `failed`."""


class Stopped(Exception):
    """The ranks agreed to stop after a SIGTERM; what they have done is saved."""

    def __init__(self, step: int) -> None:
        self.step = step
        super().__init__(f"stopped after step {step}, nothing is lost")


class ExitError(Exception):
    """An error that the user can act on: its text is complete without a traceback, its class has an exit code."""

    code = FAILURE


@dataclass(frozen=True)
class Issue:
    """One thing wrong: the field's path and what to write instead."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ConfigError(ExitError):
    """The configuration is wrong; carries every issue found."""

    code = BAD_CONFIG

    def __init__(self, issues: list[Issue]) -> None:
        self.issues = issues
        super().__init__("; ".join(map(str, issues)))


class DataError(ExitError):
    """The dataset, the initial weights or a required checkpoint cannot be used."""

    code = BAD_DATA


class PodError(ExitError):
    """The pod is not what the trainer was promised: rank variables, a volume, a device."""

    code = BAD_ENVIRONMENT


class CheckpointFailed(ExitError):
    """A checkpoint that was needed (the pod is being stopped) could not be written."""


class PeerLost(RuntimeError):
    """A collective failed because another rank is gone: the consequence of a failure, not its cause."""
