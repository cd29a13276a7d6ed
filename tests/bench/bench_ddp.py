"""What two ranks reach together of twice what one does: `make bench-ddp` (ONLY=gpt, bert, resnet, wide-deep; ROUNDS=3).

Each rank has one thread and as many rows as the rank alone. Prints a JSON line {"bench", "unit", "ours", "peer",
"theirs", "ratio", …} for each of two peers, which take turns with the two ranks: one rank alone on the machine, times
two, and two trainings that know nothing of each other at the same time, which share caches and memory as the ranks do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports import free_port

HERE = Path(__file__).parent
_PATHS = os.pathsep.join([str(HERE.parents[1] / "workloads"), str(HERE.parent)])
_SECONDS = 900  # for one turn
ALONE, TOGETHER, APART = "one rank alone, twice", "two ranks", "two trainings apart at the same time"
ROWS_AND_STEPS = {"gpt": (16, 15), "bert": (16, 15), "resnet": (64, 20), "wide-deep": (4096, 60)}


def turn(family: str, environments: list[Mapping[str, str]]) -> list[dict[str, Any]]:
    """What processes with these variables print, all at the same time."""
    rows, steps = ROWS_AND_STEPS[family]
    command = [sys.executable, str(HERE / "train_ddp.py"), family, str(rows), str(steps)]
    common = {**os.environ, "PYTHONPATH": _PATHS, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        try:
            for number, own in enumerate(environments):
                output = folder if "RANK" in own else f"{folder}/{number}"  # trainings apart share nothing
                ranks.append(subprocess.Popen([*command, output], env={**common, **own}, stdout=subprocess.PIPE))
            said = [rank.communicate(timeout=_SECONDS)[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
    if any(rank.returncode for rank in ranks):
        raise SystemExit(f"{' '.join(command)} ended with {[rank.returncode for rank in ranks]}")
    return [json.loads(printed.splitlines()[-1]) for printed in said]


def gang() -> list[Mapping[str, str]]:
    """The variables of two ranks of one node."""
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def compare(family: str, rounds: int) -> list[dict[str, Any]]:
    """A line for each peer, by the medians of `rounds` turns."""
    rates: dict[str, list[float]] = {ALONE: [], TOGETHER: [], APART: []}
    said: list[dict[str, Any]] = []
    for _ in range(rounds):
        rates[ALONE].append(2 * turn(family, [{}])[0]["rate"])
        said = turn(family, gang())
        rates[TOGETHER].append(2 * min(rank["rate"] for rank in said))
        rates[APART].append(sum(training["rate"] for training in turn(family, [{}, {}])))
    median = {side: statistics.median(values) for side, values in rates.items()}
    return [
        {
            "bench": f"DDP, 2 ranks, {family}",
            "unit": said[0]["unit"],
            "ours": round(median[TOGETHER], 1),
            "peer": peer,
            "theirs": round(median[peer], 1),
            "ratio": round(median[TOGETHER] / median[peer], 3),
            "rounds": rounds,
        }
        for peer in (ALONE, APART)
    ]


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(ROWS_AND_STEPS), help="one family instead of all")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    for family in ROWS_AND_STEPS:
        if arguments.only in (None, family):
            for line in compare(family, arguments.rounds):
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
