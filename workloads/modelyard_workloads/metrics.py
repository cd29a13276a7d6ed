"""What a rank says while it trains: JSON lines on stdout for people and log collectors, JSON lines on a pipe for the
launcher.

Rank 0 reports progress; every rank reports its failure. On a terminal the stdout lines become one plain progress line.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

from modelyard_workloads.stopwatch import Stopwatch

EVENTS_VARIABLE = "MODELYARD_EVENTS_FD"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One progress report; times in seconds, rates over all ranks."""

    step: int
    totalSteps: int
    epoch: int
    phase: str
    metrics: dict[str, float]
    samplesPerSecond: float = 0.0
    stepSeconds: float = 0.0
    dataWaitSeconds: float = 0.0
    learningRate: float = 0.0
    rates: dict[str, float] = field(default_factory=dict)  # tokensPerSecond, flopsPerSecond: what the task counts


class Meter:
    """Time and samples since the last reading."""

    def __init__(self) -> None:
        self._reading = {"samplesPerSecond": 0.0, "stepSeconds": 0.0, "dataWaitSeconds": 0.0}
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, so that an evaluation or a checkpoint is not taken for slow steps."""
        self._since = time.perf_counter()
        self._steps = 0
        self._samples = 0
        self._waited = 0.0

    def count(self, samples: int, waited: float) -> None:
        """One step over `samples` samples (all ranks), `waited` seconds of it for data."""
        self._steps += 1
        self._samples += samples
        self._waited += waited

    def latest(self) -> dict[str, float]:
        """Rates under the names of Progress: since the last reading, or that reading when less than half a second
        ago.
        """
        age = time.perf_counter() - self._since
        if self._steps and (age > 0.5 or not self._reading["stepSeconds"]):
            self._reading = {
                "samplesPerSecond": self._samples / age,
                "stepSeconds": age / self._steps,
                "dataWaitSeconds": self._waited / self._steps,
            }
            self.restart()
        return self._reading


class Reporter:
    """Sends events to the launcher (when there is one) and lines to stdout (rank 0 alone)."""

    def __init__(self, *, rank: int, environment: Mapping[str, str] = os.environ, stdout: TextIO = sys.stdout) -> None:
        self._rank = rank
        self._stdout = stdout
        descriptor = environment.get(EVENTS_VARIABLE, "")
        self._pipe = int(descriptor) if descriptor.isdecimal() else None
        self._sending = threading.Lock()
        self.stopwatch = Stopwatch(environment)

    def progress(self, progress: Progress, *, line: bool) -> None:
        """Report to the launcher, and with `line` on stdout too."""
        if self._rank != 0:
            return
        timing = self.stopwatch.read()
        self._send({"event": "progress", **asdict(progress), "timing": timing})
        if line and self._stdout.isatty():
            self._draw(progress)
        elif line:
            self._print({"event": "progress", **_rounded(asdict(progress)), "timing": timing})

    def tick(self, count: int) -> None:
        """The heartbeat of this rank; the seconds by cause go with it, since a long evaluation sends nothing else."""
        self._send({"event": "tick", "count": count, "timing": self.stopwatch.read()})

    def event(self, name: str, **fields: Any) -> None:
        """A thing that happened (checkpoint, evaluation, resume, result): to the launcher and, from rank 0, to
        stdout.
        """
        self._send({"event": name, **fields})
        if self._rank == 0:
            self._print({"event": name, **fields})

    def failure(self, **fields: Any) -> None:
        """Why this rank is about to end; the launcher finds the first one."""
        self._send({"event": "failure", "rank": self._rank, **fields})

    def _print(self, fields: dict[str, Any]) -> None:
        self._stdout.write(json.dumps(fields) + "\n")
        self._stdout.flush()

    def _draw(self, progress: Progress) -> None:
        share = progress.step / max(1, progress.totalSteps)
        filled = int(30 * share)
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
        bar = "#" * filled + "." * (30 - filled)
        end = "\n" if progress.step >= progress.totalSteps else ""
        self._stdout.write(f"\r[{bar}] {share:4.0%}  step {progress.step}/{progress.totalSteps}  {metrics}\x1b[K{end}")
        self._stdout.flush()

    def _send(self, fields: dict[str, Any]) -> None:
        data = (json.dumps(fields) + "\n").encode()
        with self._sending:  # the heartbeat and the writer of checkpoints have threads of their own
            try:
                while data and self._pipe is not None:
                    data = data[os.write(self._pipe, data) :]
            except OSError:
                self._pipe = None  # the launcher is gone; whoever reads the log still sees the lines


def _rounded(fields: dict[str, Any]) -> dict[str, Any]:
    """Six significant digits: what a reader of a log can use."""

    def short(value: Any) -> Any:
        if isinstance(value, dict):
            return _rounded(value)
        return float(f"{value:.6g}") if isinstance(value, float) else value

    return {name: short(value) for name, value in fields.items()}


def rates_of(work: dict[str, float], seconds: float, peak: float | None) -> dict[str, float]:
    """Work of a step by the second, and the share of what the accelerators can do (MFU; Chowdhery et al., 2022,
    appendix B).
    """
    if not seconds:
        return {}
    rates = {f"{unit}PerSecond": count / seconds for unit, count in work.items()}
    if peak is not None and "flops" in work:
        rates["modelFlopsUtilization"] = work["flops"] / seconds / peak
    return rates
