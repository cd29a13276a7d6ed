"""The long form, for `make faults-training ROUNDS=25`: all promises, many rounds, one table.

ROUNDS, SEED and PROMISES (a comma-separated list of names; all if empty) come from the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
from cluster.faults import lag, preemption, restart
from cluster.faults.causes import FAULTS
from cluster.faults.lost_node import LOST_NODE, SILENT_KUBELET
from cluster.faults.promise import SEED, Bench, Promise, Tally, play_rounds, table
from cluster.faults.stalls import NO_FALSE_ALARM, STALLS
from cluster.laboratory import Laboratory
from cluster.reporting import operator_that_listens

PROMISES: tuple[Promise, ...] = (
    *(fault.promise() for fault in FAULTS),
    restart.RESTART,
    preemption.PREEMPTION,
    *STALLS,
    NO_FALSE_ALARM,
    SILENT_KUBELET,
    LOST_NODE,
    lag.LAG,
)
OF_ALL_ROUNDS: dict[Promise, tuple[Callable[[], list[str]], Callable[[], str]]] = {
    restart.RESTART: (restart.median_violations, restart.phases),
    preemption.PREEMPTION: (preemption.too_few, preemption.shown),
    lag.LAG: (lag.violations, lag.shown),
}
"""What is promised about all rounds together, and the table that shows it."""


def chosen() -> list[Promise]:
    """The promises that the environment names."""
    names = [name.strip() for name in os.environ.get("PROMISES", "").split(",") if name.strip()]
    unknown = set(names) - {promise.name for promise in PROMISES}
    assert not unknown, f"PROMISES: {', '.join(unknown)}; there are: {', '.join(p.name for p in PROMISES)}"
    return [promise for promise in PROMISES if not names or promise.name in names]


@pytest.mark.timeout(6 * 3600)
def test_every_round(laboratory: Laboratory, capsys: pytest.CaptureFixture[str]) -> None:
    rounds, seed = int(os.environ.get("ROUNDS", "25")), int(os.environ.get("SEED", SEED))
    namespace, _ = operator_that_listens(laboratory, "faults")
    bench = Bench(laboratory.api, namespace)
    tallies: list[Tally] = []
    with capsys.disabled():
        for promise in chosen():
            tally = play_rounds(promise, bench, rounds, seed)
            if promise in OF_ALL_ROUNDS:
                violations, shown = OF_ALL_ROUNDS[promise]
                tally.violations += violations()
                sys.stdout.write(f"\n{shown()}\n")
            tallies.append(tally)
            sys.stdout.write(f"\n{table(tallies)}\n")
            sys.stdout.flush()
    assert not any(tally.violations for tally in tallies)
