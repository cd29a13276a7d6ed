"""The promises about standstills: a rank that hangs is told in time, with the stacks of all, and the gang begins again;
and what is merely slow is left alone."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from cluster.faults import injection
from cluster.faults.gangs import bundled
from cluster.faults.promise import Bench, Promise
from cluster.kubernetes_api import KubernetesApi, Object, eventually
from cluster.laboratory import condition, reason
from cluster.objects import Played
from cluster.ranks import environment, events_of, kubectl, signal_a_rank, wait_for_step

DEADLINE_SECONDS = 20
PROMISED_SECONDS = DEADLINE_SECONDS + 10
SLOW_SECONDS, SLOW_DEADLINE_SECONDS = 8.0, 30
"""What a piece of slow work takes, and the deadline that the whole of it exceeds; a machine that is busy with other
things may add twenty seconds to a piece before it counts as a standstill."""
SEEN_IN_STACKS = {"stopped": "is stopped (SIGSTOP)", "collective": "in recv", "loader": "in __next__"}
PARAMETERS: Object = {"architecture": "test_resnet.r160_in1k", "batchSize": 64, "logEverySteps": 1}


class Watched:
    """When a training was seen to be stalled."""

    def __init__(self, api: KubernetesApi, played: Played) -> None:
        self.stalls: list[tuple[int, float]] = []
        """(attempt, Unix time), of every beginning of a standstill."""
        self._api, self._played = api, played
        self._closed = False
        after = api.version("ModelTraining", played.namespace)
        threading.Thread(target=self._work, args=(after,), daemon=True).start()

    def _work(self, after: str) -> None:
        stalled = False
        for event in self._api.watch("ModelTraining", self._played.namespace, 900, after):
            obj = event["object"]
            if self._closed:
                return
            if obj["metadata"].get("name") == self._played.name:
                was, stalled = stalled, _stands_still(obj)
                if stalled and not was:
                    self.stalls.append((obj["status"]["attempt"], time.time()))

    def close(self) -> None:
        self._closed = True


def _stands_still(obj: Object) -> bool:
    return (condition(obj, "Stalled"), reason(obj, "Stalled")) == ("True", "NoProgress")


@contextmanager
def watched(bench: Bench, body: Object) -> Iterator[tuple[Played, Watched]]:
    """A training that is deleted at the end, and what is seen of it."""
    name = body["metadata"]["name"]
    script = Path(injection.__file__).read_text(encoding="utf-8")
    faults: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-faults"}}
    bench.api.request(
        "POST", f"/api/v1/namespaces/{bench.namespace}/configmaps", {**faults, "data": {"sitecustomize.py": script}}
    )
    watch = Watched(bench.api, Played(bench.api, "ModelTraining", bench.namespace, name))
    played = Played.create(bench.api, bench.namespace, body)
    try:
        yield played, watch
    finally:
        watch.close()
        played.delete()


def training(name: str, epochs: int, env: dict[str, str], deadline: int, **parameters: object) -> Object:
    """Two ranks in two pods, with the injection at hand."""
    body = bundled(name, "image-classification", "example://digits", {**PARAMETERS, "epochs": epochs, **parameters})
    variables = {"PYTHONPATH": "/faults:/opt/modelyard", **env}
    body["spec"]["trainer"]["env"] = [{"name": key, "value": value} for key, value in variables.items()]
    body["spec"]["pod"] = {
        "volumes": [{"name": "faults", "configMap": {"name": f"{name}-faults"}}],
        "volumeMounts": [{"name": "faults", "mountPath": "/faults"}],
    }
    body["spec"]["runPolicy"] |= {"progressDeadlineSeconds": deadline, "activeDeadlineSeconds": 900}
    body["spec"]["failurePolicy"] = {"maxRestarts": 5, "backoffSeconds": 0}
    return body


def play(kinds: Sequence[str], bench: Bench, name: str, chance: random.Random) -> list[str]:
    """One training that hangs once for each kind, attempt by attempt, and is done in the end."""
    victims = [chance.choice((0, 1)) for _ in kinds]
    plan = list(zip(itertools.count(1), kinds, victims, strict=False))
    stalls = [f"{n}:{kind}:{victim}:{chance.randrange(2, 9)}" for n, kind, victim in plan if kind != "stopped"]
    body = training(name, epochs=1 + len(kinds), env={"STALLS": ",".join(stalls)}, deadline=DEADLINE_SECONDS)
    broken: list[str] = []
    with watched(bench, body) as (played, watch):
        for attempt, kind, victim in plan:
            hung = _hang(bench, played, attempt, kind, victim)
            broken += _violations(bench, played, watch, attempt, kind, hung)
        done = played.wait("it is done", 300, phase="Succeeded")["status"]
    if done["progress"]["step"] != done["progress"]["totalSteps"]:
        broken.append(f"succeeded at {done['progress']}")
    if done["restarts"] != len(kinds):
        broken.append(f"{done['restarts']} restarts for {len(kinds)} standstills")
    return broken


def _hang(bench: Bench, played: Played, attempt: int, kind: str, victim: int) -> float:
    """Wait until a rank hangs, or make it; returns when (Unix time)."""
    played.running(attempt)
    if kind == "stopped":
        assert wait_for_step(bench.namespace, f"{played.name}-{attempt}-0", 3), "it ended before it was stopped"
        stopped = signal_a_rank(bench.namespace, f"{played.name}-{attempt}-{victim}", "SIGSTOP")
        assert stopped is not None, "no rank was there to be stopped"
        return stopped
    with events_of(bench.namespace, f"{played.name}-{attempt}-{victim}") as events:
        hung = next((float(event["at"]) for event in events if event["event"] == "hang"), None)
    assert hung is not None, "it ended before it hung"
    return hung


def _violations(bench: Bench, played: Played, watch: Watched, attempt: int, kind: str, hung: float) -> Iterator[str]:
    """Told in time, looked into, and begun again."""
    played.running(attempt + 1)
    seen = [at for of, at in watch.stalls if of == attempt]
    if len(seen) != 1 or not 0 < seen[0] - hung <= PROMISED_SECONDS:
        yield f"attempt {attempt} ({kind}) hung; Stalled after {[round(at - hung, 1) for at in seen]} s"
    failed = played.status["lastFailure"]
    if (failed["attempt"], failed["reason"]) != (attempt, "Stalled"):
        yield f"attempt {attempt} ({kind}) failed by {failed}"
    told = failed.get("logTail", "")
    if SEEN_IN_STACKS[kind] not in told or not _names_both(told):
        yield f"attempt {attempt} ({kind}): the status says {told!r}"
    kept = _stacks(bench.namespace, f"{played.name}-{attempt + 1}-0", attempt)
    if SEEN_IN_STACKS[kind] not in kept or not all(f"rank {rank}, process" in kept for rank in (0, 1)):
        yield f"attempt {attempt} ({kind}): the volume has {kept!r}; {failed}"


def _names_both(told: str) -> bool:
    return all(f"rank {rank}: " in told for rank in (0, 1))


def _stacks(namespace: str, pod: str, attempt: int) -> str:
    """What is on the output volume, as people read it."""
    command = kubectl("exec", "--namespace", namespace, pod, "--", "sh", "-c")
    command.append(f"cat /modelyard/output/stacks/attempt-{attempt}/rank-*.txt")

    def read() -> str | None:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        return done.stdout or None

    return eventually("the stacks are read", read, 30)


def play_slow(bench: Bench, name: str, chance: random.Random) -> list[str]:
    """A first pass, evaluations and checkpoints that each take longer than the deadline, and never stand still."""
    steps = chance.randrange(4, 9)
    limits = {"maxSteps": 2 * steps, "evaluateEverySteps": steps, "batchSize": 32}
    body = training(name, 1, {"SLOW_SECONDS": str(SLOW_SECONDS)}, SLOW_DEADLINE_SECONDS, **limits)
    body["spec"]["checkpoint"] = {"everySteps": steps, "everySeconds": None}
    with watched(bench, body) as (played, watch):
        done = played.wait("it is done", 600, phase="Succeeded")["status"]
        if done["restarts"]:
            return [f"it was restarted, and it was merely slow: {done['lastFailure']}"]
        timing = last_words(bench, f"{name}-1-0")["timing"]
    slow = {cause: timing[cause] for cause in ("evaluation", "checkpoint")}
    broken = ["it was Stalled, and it was merely slow"] if watch.stalls else []
    return broken + [f"{cause} took {taken} s only" for cause, taken in slow.items() if taken < SLOW_DEADLINE_SECONDS]


def last_words(bench: Bench, pod: str) -> Object:
    """The termination message of a launcher."""
    told = bench.api.get("Pod", bench.namespace, pod)["status"]["containerStatuses"][0]["state"]["terminated"]
    return dict(json.loads(told["message"]))


STALLS = tuple(
    Promise(title, partial(play, (kind,)))
    for title, kind in (("stopped rank", "stopped"), ("skipped collective", "collective"), ("stuck loader", "loader"))
)
NO_FALSE_ALARM = Promise("no false alarm", play_slow)
