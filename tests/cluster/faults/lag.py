"""The promise that a status is at most two seconds behind the truth, 99 times of 100: from the change of a pod, or of
the spec, as a watch shows it, to the phase that follows from it, as another watch shows it."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from cluster.faults.promise import Bench, Promise
from cluster.kubernetes_api import Object, eventually
from cluster.laboratory import condition
from cluster.objects import Played, artifacts, failure, training

PROMISED_SECONDS = 2.0
NODES = 2
CHANGES = ("Running 1", "Restarting", "Running 2", "Suspended", "Running 3", "Succeeded")
"""What is timed in each life, in its order."""

_measured: defaultdict[str, list[float]] = defaultdict(list)
_lock = threading.Lock()


class Chronicle:
    """When the truth changed, and when the status said so (monotonic seconds), by what changed."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.true: dict[str, float] = {}
        self.told: dict[str, float] = {}
        self._name, self._closed = name, False
        self._pods: dict[str, str] = {}
        for kind, note in (("Pod", self._pod), ("ModelTraining", self._status)):
            after = bench.api.version(kind, bench.namespace)
            watch = bench.api.watch(kind, bench.namespace, 300, after)
            threading.Thread(target=self._work, args=(watch, note), daemon=True).start()

    def _work(self, watch: Iterator[Object], note: Callable[[Object], None]) -> None:
        for event in watch:
            if self._closed:
                return
            if event["object"]["metadata"].get("name", "").startswith(self._name):
                note(event["object"])

    def close(self) -> None:
        self._closed = True

    def _pod(self, pod: Object) -> None:
        name, phase = pod["metadata"]["name"], pod["status"].get("phase", "")
        self._pods[name] = phase
        attempt = name.removeprefix(f"{self._name}-").partition("-")[0]
        phases = [self._pods.get(f"{self._name}-{attempt}-{rank}") for rank in range(NODES)]
        if phase == "Failed":
            self.true.setdefault("Restarting", time.monotonic())
        if phases == ["Running"] * NODES:
            self.true.setdefault(f"Running {attempt}", time.monotonic())
        if phases == ["Succeeded"] * NODES:
            self.true.setdefault("Succeeded", time.monotonic())

    def _status(self, obj: Object) -> None:
        status = obj.get("status") or {}
        phase, attempt = status.get("phase"), status.get("attempt")
        if phase == "Running":
            self.told.setdefault(f"Running {attempt}", time.monotonic())
        if attempt == 2:
            self.told.setdefault("Restarting", time.monotonic())
        if phase in ("Suspended", "Succeeded"):
            self.told.setdefault(phase, time.monotonic())

    def lags(self) -> dict[str, float]:
        """Seconds by what changed; a truth that was over before it was told has none."""
        return {name: self.told[name] - self.true[name] for name in CHANGES if name in self.told and name in self.true}


def play(bench: Bench, name: str, chance: random.Random) -> list[str]:
    """One life on fake nodes; too late by itself is no violation, the 99th percentile of all is what is promised."""
    chronicle = Chronicle(bench, name)
    played = Played.create(bench.api, bench.namespace, training(name, nodes=NODES))
    try:
        played.running(attempt=1)
        time.sleep(chance.uniform(0, 2))
        played.end(1, chance.randrange(NODES), 1, failure("out of luck"))
        played.running(attempt=2)
        played.edit(suspend=True)
        chronicle.true["Suspended"] = time.monotonic()
        played.wait("suspended", phase="Suspended")
        played.edit(suspend=False)
        played.running(attempt=3)
        for rank in reversed(range(NODES)):
            played.end(3, rank, 0, artifacts(f"{name}-output"))
        done = played.wait("it is done", phase="Succeeded")
        eventually("the watches are there too", lambda: len(chronicle.lags()) == len(CHANGES), 30, chronicle.lags)
    finally:
        chronicle.close()
        played.delete()
    with _lock:
        for change, seconds in chronicle.lags().items():
            _measured[change].append(seconds)
    return [] if condition(done, "Succeeded") == "True" else ["it did not succeed"]


def violations() -> list[str]:
    """The promise about all changes so far."""
    lag = percentile([seconds for lags in _measured.values() for seconds in lags], 99)
    return [f"p99 {lag:.1f} s, promised {PROMISED_SECONDS:.0f} s"] if lag > PROMISED_SECONDS else []


def percentile(values: Sequence[float], share: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[share - 1] if len(values) > 1 else max(values)


def shown() -> str:
    """Median, 99th percentile and maximum, as a table."""
    count = sum(map(len, _measured.values()))
    lines = [f"{'status behind':14} median     p99     max   (seconds, {count} changes)"]
    for change in (*CHANGES, "in all"):
        values = [s for name, lags in _measured.items() for s in lags if change in (name, "in all")]
        lines.append(f"{change:14} {statistics.median(values):6.2f}  {percentile(values, 99):6.2f}  {max(values):6.2f}")
    return "\n".join(lines)


LAG = Promise("status lag", play)
