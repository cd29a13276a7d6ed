"""One rank of a training: `python -m modelyard_workloads.train`, started by the launcher (or by torchrun).

SIGTERM before the ranks have met ends the process at once, since nothing can be lost yet; afterwards it sets a flag,
and the ranks agree on the step after which they save and stop.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import Any, NoReturn

from modelyard_workloads import config as configuration
from modelyard_workloads import heartbeat, stacks
from modelyard_workloads.exits import CHECKPOINTED, FAILURE, SUCCESS, ExitError
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.metrics import EVENTS_VARIABLE, Reporter
from modelyard_workloads.processes import SAVE_SIGNAL

_PR_SET_PDEATHSIG = 1


class Signals:
    """What the launcher asks of this rank by signals; the loop looks at it between two steps."""

    def __init__(self) -> None:
        self._stop = self._save = False
        signal.signal(SAVE_SIGNAL, self._on_save)

    def install(self) -> None:
        """From now on SIGTERM asks for a stop. Ctrl-C reaches the launcher too, which forwards it as SIGTERM."""
        signal.signal(signal.SIGTERM, self._on_stop)

    def stop(self) -> bool:
        """Is the rank to save and stop?"""
        return self._stop

    def save(self) -> bool:
        """Is a checkpoint asked for? Asked once, it is asked for once."""
        wanted, self._save = self._save, False
        return wanted

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _on_save(self, _signal: int, _frame: FrameType | None) -> None:
        self._save = True


def main() -> int:
    """Train; the exit code says how it ended (see exits.py)."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    if EVENTS_VARIABLE in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _die_with_launcher()
    rank = os.environ.get("RANK", "0")
    reporter = Reporter(rank=int(rank) if rank.isdecimal() else 0)
    reporter.stopwatch.lap("process")
    heartbeat.PROCESS.start(reporter.tick)
    stacks.install(os.environ)
    try:
        return _train(reporter, Signals())
    except ExitError as error:
        reporter.failure(exitCode=error.code, exceptionType=type(error).__name__, message=str(error))
        sys.stderr.write(f"error: {error}\n")
        return error.code
    except BaseException as error:
        traceback.print_exc()
        reporter.failure(exitCode=FAILURE, **_describe(error))
        return FAILURE


def _train(reporter: Reporter, signals: Signals) -> int:
    config = configuration.load()
    # torch takes seconds to import; a wrong configuration should not. The hundred thousand objects that it makes stay:
    # no collection needs to visit them, now or later.
    gc.disable()
    from modelyard_workloads import eager
    from modelyard_workloads.distributed import RankInfo, Ranks
    from modelyard_workloads.exits import Stopped
    from modelyard_workloads.loop import train
    from modelyard_workloads.randomness import make_deterministic
    from modelyard_workloads.tasks import build_task

    eager.skip_compiler()
    make_deterministic()
    ranks = Ranks(RankInfo.from_environment(os.environ))
    configuration.check_batch_size(config, ranks.world_size)
    task = build_task(config)
    gc.freeze()
    gc.enable()
    reporter.stopwatch.lap("imports")
    moved()
    ranks.start()
    reporter.stopwatch.lap("rendezvous")
    moved()
    signals.install()
    try:
        result = train(task, config, ranks, reporter, signals.stop, signals.save)
    except Stopped as stopped:
        if ranks.is_main:
            reporter.event("stopped", step=stopped.step)
        ranks.stop()
        return CHECKPOINTED
    if ranks.is_main:
        reporter.event("result", **result)
    ranks.stop()
    return SUCCESS


def _describe(error: BaseException) -> dict[str, Any]:
    from modelyard_workloads.distributed import peer_lost

    lost = peer_lost(error)
    if lost is not None:
        return {"exceptionType": type(lost).__name__, "message": str(lost), "reason": "PeerLost"}
    return {"exceptionType": type(error).__name__, "message": str(error) or repr(error)}


def _die_with_launcher() -> None:
    """When the launcher is killed, its ranks must not train on as orphans; Linux only, elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave(code: int) -> NoReturn:
    """End a rank at once: torch takes most of a second to be taken down in order, and the destructors of a broken
    process group wait for peers that are gone. A checkpoint that is being written is finished first.
    """
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
