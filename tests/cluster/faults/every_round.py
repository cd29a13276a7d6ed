"""The long form, for `make faults-training ROUNDS=25`: all promises, many rounds, one table.

ROUNDS, SEED and PROMISES (a comma-separated list of names; all if empty) come from the environment.
"""

from __future__ import annotations

import os
import sys

import pytest
from cluster.faults import restart
from cluster.faults.causes import FAULTS
from cluster.faults.promise import SEED, Bench, Promise, Tally, play_rounds, table
from cluster.laboratory import Laboratory

PROMISES: tuple[Promise, ...] = (*(fault.promise() for fault in FAULTS), restart.RESTART)


def chosen() -> list[Promise]:
    """The promises that the environment names."""
    names = [name.strip() for name in os.environ.get("PROMISES", "").split(",") if name.strip()]
    unknown = set(names) - {promise.name for promise in PROMISES}
    assert not unknown, f"PROMISES: {', '.join(unknown)}; there are: {', '.join(p.name for p in PROMISES)}"
    return [promise for promise in PROMISES if not names or promise.name in names]


@pytest.mark.timeout(6 * 3600)
def test_every_round(laboratory: Laboratory, capsys: pytest.CaptureFixture[str]) -> None:
    rounds, seed = int(os.environ.get("ROUNDS", "25")), int(os.environ.get("SEED", SEED))
    bench = Bench(laboratory.api, laboratory.namespace)
    tallies: list[Tally] = []
    with capsys.disabled():
        for promise in chosen():
            tally = play_rounds(promise, bench, rounds, seed)
            if promise is restart.RESTART:
                tally.violations += restart.median_violations()
                sys.stdout.write(f"\n{restart.phases()}\n")
            tallies.append(tally)
            sys.stdout.write(f"\n{table(tallies)}\n")
            sys.stdout.flush()
    assert not any(tally.violations for tally in tallies)
