"""The operator as a process of its own, with what the kernel knows of it: CPU time and peak memory."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.kubernetes_api import eventually
from cluster.operator_process import OperatorProcess


class MeasuredOperator(OperatorProcess):
    """One replica, started as it is installed."""

    def wait_leading(self) -> None:
        """Until it reconciles: being ready only says that its watches are."""
        eventually("the operator leads", lambda: self.series("modelyard_leader") == 1, told=self.tail)

    @property
    def cpu_seconds(self) -> float:
        """User and system time since its start."""
        fields = (self._proc / "stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def peak_megabytes(self) -> float:
        """The most resident memory that it ever had (VmHWM), in units of a million bytes."""
        line = next(x for x in (self._proc / "status").read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6

    def series(self, name: str) -> float:
        """The sum of all series of one name on /metrics."""
        lines = (line for line in self.probe("/metrics")[1].splitlines() if line.startswith((f"{name} ", f"{name}{{")))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    @property
    def _proc(self) -> Path:
        assert self._process is not None, "not started"
        return Path("/proc") / str(self._process.pid)
