"""What two ranks reach together of twice what one does: `make bench-ddp` (ONLY=gpt, bert, resnet or wide-deep).

Each rank has one thread and as many rows as the rank alone. Prints a JSON line {"bench", "unit", "ours", "peer",
"theirs", "ratio", …} for each of two peers: one rank alone on the machine, times two, and two trainings that know
nothing of each other at the same time, which share caches and memory as the ranks do. All of them are there all the
time, and take turns of some steps: a machine's speed changes from one minute to the next by more than what is measured.
"waited" is the share of the two ranks' time in which one had nothing to do but to wait for the other, which computes as
much but, where cores are of uneven speed, slower.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from operator import truediv
from pathlib import Path
from typing import Any

from ports import free_port

HERE = Path(__file__).parent
_PATHS = os.pathsep.join([str(HERE.parents[1] / "workloads"), str(HERE.parent)])
_WARM_UP = 5  # steps that are not counted
_PATIENCE = 300  # seconds for them
ALONE, TOGETHER, APART = "one rank alone, twice", "two ranks", "two trainings apart at the same time"
ROWS_AND_SECONDS = {"gpt": (16, 5.0), "bert": (16, 5.0), "resnet": (64, 8.0), "wide-deep": (4096, 1.0)}  # of a turn


class Side:
    """Processes that train when it is their turn, and stand still else."""

    def __init__(self, family: str, folder: Path, environments: list[Mapping[str, str]]) -> None:
        """Start them and wait until they are warm; then stop them."""
        self.waited: list[float] = []  # the share of a turn's steps in which a process had nothing to compute
        self._rows = ROWS_AND_SECONDS[family][0]
        command = [sys.executable, str(HERE / "train_ddp.py"), family, str(self._rows)]
        common = {**os.environ, "PYTHONPATH": _PATHS, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        folder.mkdir()
        self._files = [folder / f"steps-{number}" for number in range(len(environments))]
        self._processes = []
        for number, own in enumerate(environments):
            output = folder if "RANK" in own else folder / str(number)  # trainings apart share nothing
            with self._files[number].open("wb") as printed:
                process = subprocess.Popen([*command, str(output)], env={**common, **own}, stdout=printed)
            self._processes.append(process)
        deadline = time.monotonic() + _PATIENCE
        while any(len(self._steps(file)) < _WARM_UP for file in self._files):
            if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
                self.end()
                raise SystemExit(f"{' '.join(command)} did not begin")
            time.sleep(0.1)
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> list[float]:
        """Rows a second of each process, by the steps that begin and end within the turn; adds to `waited`."""
        began = time.monotonic()
        self._signal(signal.SIGCONT)
        time.sleep(seconds)
        ended = time.monotonic()
        self._signal(signal.SIGSTOP)
        rates = []
        for file in self._files:
            steps = [step for step in self._steps(file) if step[0] > began and step[1] < ended]
            took = statistics.mean(end - start for start, end, _ in steps)
            self.waited.append(1 - statistics.mean(computed for _, _, computed in steps) / took)
            rates.append(self._rows / took)
        return rates

    def end(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _signal(self, number: int) -> None:
        for process in self._processes:
            process.send_signal(number)

    @staticmethod
    def _steps(file: Path) -> list[list[float]]:
        """When each began and ended, and the seconds of the processor that it took."""
        whole = file.read_text().rpartition("\n")[0]
        return [[float(number) for number in line.split()] for line in whole.splitlines()]


def gang() -> list[Mapping[str, str]]:
    """The variables of two ranks of one node."""
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def compare(family: str, rounds: int) -> list[dict[str, Any]]:
    """A line for each peer, by the medians of `rounds` turns."""
    rates: dict[str, list[float]] = {ALONE: [], TOGETHER: [], APART: []}
    environments: dict[str, list[Mapping[str, str]]] = {ALONE: [{}], TOGETHER: gang(), APART: [{}, {}]}
    sides: dict[str, Side] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number, (name, own) in enumerate(environments.items()):
                sides[name] = Side(family, Path(folder, str(number)), own)
            for _ in range(rounds):
                for name, side in sides.items():
                    found = side.turn(ROWS_AND_SECONDS[family][1])
                    rates[name].append(sum(found) if name == APART else 2 * min(found))
        finally:
            for side in sides.values():
                side.end()
    return [
        {
            "bench": f"DDP, 2 ranks, {family}",
            "unit": "rows/s",
            "ours": round(statistics.median(rates[TOGETHER]), 1),
            "peer": peer,
            "theirs": round(statistics.median(rates[peer]), 1),
            "ratio": round(statistics.median(map(truediv, rates[TOGETHER], rates[peer])), 3),
            "rounds": rounds,
            "waited": round(statistics.mean(sides[TOGETHER].waited), 3),
        }
        for peer in (ALONE, APART)
    ]


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(ROWS_AND_SECONDS), help="one family instead of all")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    for family in ROWS_AND_SECONDS:
        if arguments.only in (None, family):
            for line in compare(family, arguments.rounds):
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
