"""The promise that a gang is back soon: from kill -9 of a rank to the next optimizer step, phase by phase."""

from __future__ import annotations

import itertools
import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields

from cluster.faults.gangs import KILLABLE, bundled
from cluster.faults.promise import Bench, Promise
from cluster.kubernetes_api import eventually
from cluster.objects import Played
from cluster.ranks import events_of, kill_a_rank, wait_for_step

PROMISED_SECONDS = 10.0


@dataclass(frozen=True)
class Restart:
    """Seconds of one restart, one phase after the other."""

    decided: float
    """From the kill to the next attempt in the status: the launcher ends, the kubelet tells, the operator decides."""
    running: float
    """Until the kubelet says that both pods of the next attempt run."""
    resumed: float
    """Until rank 0 has imported torch, met its peer and loaded the checkpoint."""
    stepped: float
    """Until the first optimizer step after that."""

    @property
    def seconds(self) -> float:
        return self.decided + self.running + self.resumed + self.stepped


_measured: list[Restart] = []
_lock = threading.Lock()


def measure(bench: Bench, name: str, chance: random.Random) -> Restart:
    """Kill one rank of a running gang, and time its way back."""
    played = Played.create(bench.api, bench.namespace, _training(name))
    try:
        played.running()
        assert wait_for_step(bench.namespace, f"{name}-1-0", chance.randrange(6, 12)), "it ended before it was killed"
        killed = kill_a_rank(bench.namespace, f"{name}-1-{chance.choice((0, 1))}")
        assert killed is not None, "no rank was there to be killed"
        marks = [killed]
        eventually("the next attempt is decided", lambda: played.status.get("attempt") == 2, told=played.told)
        marks.append(time.time())
        played.running(attempt=2)
        marks.append(time.time())
        with events_of(bench.namespace, f"{name}-2-0") as events:
            assert next((e for e in events if e["event"] == "resumed"), None), "the second attempt began anew"
            marks.append(time.time())
            assert next((e for e in events if e["event"] == "progress"), None), "no step after the kill"
            marks.append(time.time())
        return Restart(*(after - before for before, after in itertools.pairwise(marks)))
    finally:
        played.delete()


def play(bench: Bench, name: str, chance: random.Random) -> list[str]:
    """One round: too slow by itself is no violation, the median of all rounds is what is promised."""
    restart = measure(bench, name, chance)
    with _lock:
        _measured.append(restart)
    return []


def median_violations() -> list[str]:
    """The promise about all restarts so far."""
    median = statistics.median(restart.seconds for restart in _measured)
    return [f"median {median:.1f} s, promised {PROMISED_SECONDS:.0f} s"] if median > PROMISED_SECONDS else []


def phases(restarts: Sequence[Restart] | None = None) -> str:
    """Medians and extremes of the phases, as a table."""
    restarts = _measured if restarts is None else restarts
    lines = [f"{'phase of a restart':20} median     min     max   (seconds, {len(restarts)} restarts)"]
    for name in (*(field.name for field in fields(Restart)), "seconds"):
        values = [getattr(restart, name) for restart in restarts]
        label = "in all" if name == "seconds" else name
        lines.append(f"{label:20} {statistics.median(values):6.2f}  {min(values):6.2f}  {max(values):6.2f}")
    return "\n".join(lines)


def _training(name: str) -> dict[str, object]:
    body = bundled(name, "image-classification", "example://digits", KILLABLE)
    body["spec"]["failurePolicy"] = {"maxRestarts": 3, "backoffSeconds": 0}
    return body


RESTART = Promise("restart", play, lanes=1)
