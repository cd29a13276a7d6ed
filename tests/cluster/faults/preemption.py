"""The promise that a training may be disturbed at any moment: suspended, a pod deleted or evicted, while it starts,
warms up, trains, evaluates, saves. It goes on from the very step at which it was told to end, and comes to the figures
of a training that nobody touched."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from cluster.faults.gangs import bundled
from cluster.faults.promise import Bench, Promise
from cluster.kubernetes_api import Object, Refused, eventually
from cluster.laboratory import condition
from cluster.objects import Played
from cluster.ranks import events_of

STEPS = 44
PARAMETERS: Object = {
    "architecture": "test_resnet.r160_in1k",
    "epochs": 2,
    "batchSize": 64,
    "logEverySteps": 1,
    "evaluateEverySteps": 11,
}
MOMENTS = ("at once", "starting", "warm-up", "training", "evaluating", "saving")


class Diary:
    """What rank 0 of one attempt says, as it comes."""

    def __init__(self, namespace: str, pod: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, args=(namespace, pod), daemon=True)
        self._thread.start()

    def _read(self, namespace: str, pod: str) -> None:
        with suppress(ValueError), events_of(namespace, pod) as events:  # a line that was cut as the pod went
            for event in events:
                self.events.append(event)

    def close(self) -> None:
        """When the pod has ended."""
        self._thread.join(60)

    def of(self, *names: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] in names]

    @property
    def step(self) -> int:
        """The furthest that it said it was."""
        return max((int(event["step"]) for event in self.events if "step" in event), default=0)


def reached(diary: Diary, moment: str, after: int) -> bool:
    """Has the attempt come to this moment, at or beyond a step?"""
    progress = [event for event in diary.of("progress") if event["step"] >= after]
    return {
        "at once": True,
        "starting": bool(diary.of("resumed", "progress")),
        "warm-up": any(event["phase"] == "warmup" for event in progress) or diary.step > STEPS // 8,
        "training": bool(progress),
        "evaluating": bool(diary.of("evaluation")),
        "saving": bool(diary.of("checkpoint")),
    }[moment]


def suspend(_bench: Bench, played: Played, _pod: str) -> None:
    played.edit(suspend=True)
    played.wait("suspended", phase="Suspended")
    played.edit(suspend=False)


def delete(bench: Bench, _played: Played, pod: str) -> None:
    bench.api.delete("Pod", bench.namespace, pod)


def evict(bench: Bench, _played: Played, pod: str) -> None:
    with suppress(Refused):  # it has just ended
        bench.api.evict(bench.namespace, pod)


DISTURBANCES: tuple[Callable[[Bench, Played, str], None], ...] = (suspend, delete, evict)


def training(name: str) -> Object:
    body = bundled(name, "image-classification", "example://digits", PARAMETERS)
    body["spec"]["checkpoint"] = {"everySteps": 7, "everySeconds": None}
    body["spec"]["runPolicy"] = {"terminationGracePeriodSeconds": 60, "activeDeadlineSeconds": 900}
    return body


_untouched: dict[Bench, Object] = {}
_disturbed: Counter[str] = Counter()
_resumed: list[int] = []
_lock = threading.Lock()


def figures(obj: Object) -> Object:
    """What a training came to: the metrics of each of its artifacts, at the steps they are of."""
    return {a["name"]: (a["step"], a["metrics"]) for a in obj["status"]["artifacts"]}


def untouched(bench: Bench) -> Object:
    """The figures of a training that nobody disturbs; played once."""
    with _lock:
        if bench not in _untouched:
            played = Played.create(bench.api, bench.namespace, training("untouched"))
            _untouched[bench] = figures(played.wait("it is done", 300, phase="Succeeded"))
            played.delete()
        return _untouched[bench]


def play_and_compare(times: int, bench: Bench, name: str, chance: random.Random) -> list[str]:
    """As `play`, and the figures must be those of a training that nobody touched."""
    return play(times, bench, name, chance, untouched(bench))


def play(times: int, bench: Bench, name: str, chance: random.Random, expected: Object | None = None) -> list[str]:
    """One training that is disturbed so many times, each time in another attempt, and done in the end."""
    broken: list[str] = []
    played = Played.create(bench.api, bench.namespace, training(name))
    try:
        done, attempt = 0, 0
        while attempt <= times:
            attempt += 1
            disturbed = attempt <= times
            diary, ended = _attempt(bench, played, attempt, chance if disturbed else None)
            broken += _violations(diary, attempt, done)
            done = max(done, diary.step)
            if ended:
                break
        broken += _ends_well(played.observed, expected)
    finally:
        played.delete()
    return broken


def _attempt(bench: Bench, played: Played, attempt: int, chance: random.Random | None) -> tuple[Diary, bool]:
    """An attempt to its end, disturbed by chance; and whether the training is over."""
    pod = f"{played.name}-{attempt}"
    eventually(f"attempt {attempt} runs", lambda: _runs(played, attempt), 180, played.told)
    diary = Diary(bench.namespace, f"{pod}-0")
    if chance is not None:
        moment, after = chance.choice(MOMENTS), chance.randrange(STEPS // 2)
        victim, disturb = chance.choice((0, 1)), chance.choice(DISTURBANCES)
        pause = chance.uniform(0, 0.5)
        eventually(moment, lambda: reached(diary, moment, after) or _over(played), 180, played.told)
        time.sleep(pause)  # the promise holds at any moment: this only spreads them
        if not _over(played):
            with _lock:
                _disturbed[f"{disturb.__name__}, {moment}"] += 1
            disturb(bench, played, f"{pod}-{victim}")
    told = eventually(
        f"attempt {attempt} has ended",
        lambda: played.observed if _over(played) or played.status.get("attempt", 0) > attempt else None,
        300,
        played.told,
    )
    diary.close()
    return diary, condition(told, "Finished") == "True"


def _runs(played: Played, attempt: int) -> bool:
    status = played.status
    return (status.get("attempt") == attempt and status["phase"] == "Running") or _over(played)


def _over(played: Played) -> bool:
    return condition(played.observed, "Finished") == "True"


def _violations(diary: Diary, attempt: int, done: int) -> list[str]:
    """It began where the one before was told to end, and found nothing damaged."""
    broken = []
    resumed = [int(event["step"]) for event in diary.of("resumed")]
    begun = [int(event["step"]) for event in diary.of("progress")][:1]
    with _lock:
        _resumed.extend(resumed)
    if begun and (resumed or [0])[0] < done:
        broken.append(f"attempt {attempt} began from step {resumed or 0}, and {done} were done")
    if failed := diary.of("failure", "checkpointFailed"):
        broken.append(f"attempt {attempt} said {failed}")
    return broken


def _ends_well(obj: Object, expected: Object | None) -> list[str]:
    """A success that is one: every step, an artifact of the last, and the figures that are expected."""
    status = obj["status"]
    if condition(obj, "Succeeded") != "True":
        return [f"it ended as {status['phase']}: {status.get('lastFailure')}"]
    found = figures(obj)
    steps = status["progress"]["step"], found["final"][0]
    broken = [] if steps == (STEPS, STEPS) else [f"succeeded at steps {steps}"]
    return broken + ([f"it came to {found}, untouched to {expected}"] if expected and found != expected else [])


def shown() -> str:
    """What was done to the trainings of all rounds, and when; so that nobody takes nothing for a success."""
    what = Counter(name.partition(", ")[0] for name in _disturbed.elements())
    when = Counter(name.partition(", ")[2] for name in _disturbed.elements())
    counts = "; ".join(", ".join(f"{name} {n}" for name, n in sorted(counted.items())) for counted in (what, when))
    return f"{_disturbed.total()} preemptions ({counts}); {len(_resumed)} attempts went on from a checkpoint"


def too_few() -> list[str]:
    """Rounds in which nothing was lost because nothing was done prove nothing."""
    return [] if len(_resumed) >= _disturbed.total() / 3 else [f"only {len(_resumed)} attempts had anything to lose"]


PREEMPTION = Promise("five preemptions", partial(play_and_compare, 5))
