"""`python -m modelyard_workloads.serve.explain`: explains what the server beside it asks, over stdin and stdout.

Takes the server's MODELYARD_CONFIG. Ends with the server, whatever it computes: stdin is closed then.
"""

from __future__ import annotations

import os


def _step_back() -> None:
    """Run only when nobody else wants to; every thread begins so."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):  # another system, or a sandbox without it
        os.nice(19)


if __name__ == "__main__":
    _step_back()  # before the imports, which take seconds of a core
    from modelyard_workloads.serve.explain.worker import run

    run(os.environ["MODELYARD_CONFIG"])
