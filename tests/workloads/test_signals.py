"""SIGTERM when a rank has done everything: there is no end of the interpreter that it could meet without handlers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from trainings.pods import ROOT

SCRIPT = """
import os, signal
from modelyard_workloads.train import Signals, leave

class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)  # the interpreter has given the handlers back by now

signals = Signals()
signals.install()
os.late = Late()
if {done}:
    leave(0)
"""


def ended(done: bool) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workloads")}
    return subprocess.run([sys.executable, "-c", SCRIPT.format(done=done)], env=environment, timeout=180).returncode


def test_a_rank_that_is_done_ends_with_its_own_exit_code() -> None:
    assert ended(done=False) == -signal.SIGTERM, "else this test shows nothing"
    assert ended(done=True) == 0
