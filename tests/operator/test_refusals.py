"""Children that the API server refuses: when they are tried again, and what is told of them."""

from __future__ import annotations

import pytest
from modelyard_operator.plan import Key, Object
from modelyard_operator.refusals import Refusals
from modelyard_operator.store import Store

KEY, OTHER = Key("ModelService", "ns", "demo"), Key("ModelService", "ns", "other")


def child(name: str, kind: str = "Service", **spec: int) -> Object:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Refusals:
    return Refusals(clock)


def refuse(refusals: Refusals, *children: Object) -> float:
    """One look in which all of these are tried and refused; the seconds until the next."""
    for one in children:
        refusals.add(KEY, one, "exceeded quota")
    seconds = refusals.look(KEY, children, refusals.of(KEY))
    assert seconds is not None
    return seconds


def looks(refusals: Refusals, *wanted: Object) -> float | None:
    """One look of an event's, by a status that knows what is refused."""
    return refusals.look(KEY, wanted, refusals.of(KEY))


def test_what_was_refused_is_left_alone_until_its_time_comes(refusals: Refusals, clock: Clock) -> None:
    front = child("front")
    assert not refusals.waits(KEY, front)
    seconds = refuse(refusals, front)
    assert 0.5 <= seconds <= 1
    assert refusals.waits(KEY, front) and not refusals.waits(OTHER, front)
    clock.now += seconds + 0.001
    assert not refusals.waits(KEY, front)


def test_the_time_doubles_with_each_try_and_not_with_each_look(refusals: Refusals, clock: Clock) -> None:
    front = child("front")
    for tries, longest in enumerate([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]):
        seconds = refuse(refusals, front)
        assert longest / 2 <= seconds <= longest, tries
        for _ in range(100):  # events of the parent: nothing is tried
            clock.now += seconds / 200
            assert refusals.waits(KEY, front)
            left = looks(refusals, front)
        assert left == pytest.approx(seconds / 2)
        clock.now += seconds / 2 + 0.001


def test_several_refused_at_once_are_one_try(refusals: Refusals) -> None:
    assert refuse(refusals, *(child(f"demo-1-{rank}", "Pod") for rank in range(64))) <= 1


def test_another_rendering_is_tried_at_once(refusals: Refusals) -> None:
    refuse(refusals, child("front", port=80))
    assert not refusals.waits(KEY, child("front", port=81))


def test_a_status_that_was_made_from_something_else_is_made_anew_at_once(refusals: Refusals, clock: Clock) -> None:
    front = child("front")
    for message in ("exceeded quota: 2 of 2", "exceeded quota: 3 of 3"):
        before = refusals.of(KEY)
        refusals.add(KEY, front, message)
        assert refusals.look(KEY, (front,), before) == 0
        assert refusals.of(KEY) == {"Service/front": message}
        assert refusals.waits(KEY, front), "at once, and without another try"
        clock.now += looks(refusals, front) or 0
    before = refusals.of(KEY)
    refusals.drop(KEY, front)
    assert refusals.look(KEY, (front,), before) == 0 and looks(refusals, front) is None


def test_what_was_written_is_refused_no_more_and_the_next_refusal_is_a_first_one(
    refusals: Refusals, clock: Clock
) -> None:
    front = child("front")
    for _ in range(5):
        clock.now += refuse(refusals, front)
    refusals.drop(KEY, front)
    assert refusals.of(KEY) == {} and looks(refusals, front) is None
    assert refuse(refusals, front) <= 1


def test_what_is_wanted_no_more_is_forgotten_and_the_status_is_made_anew(refusals: Refusals) -> None:
    front, scaler = child("front"), child("demo", "ScaledObject")
    refuse(refusals, front, scaler)
    assert refusals.look(KEY, (front,), refusals.of(KEY)) == 0
    assert refusals.of(KEY) == {"Service/front": "exceeded quota"}
    assert refusals.look(KEY, (), refusals.of(KEY)) == 0
    assert looks(refusals) is None and refusals.of(KEY) == {}


def test_a_kind_that_comes_lets_its_objects_be_tried(refusals: Refusals) -> None:
    scaler, front = child("demo", "ScaledObject"), child("front")
    refuse(refusals, scaler)
    refusals.add(OTHER, front, "a quota")
    refusals.look(OTHER, (front,), refusals.of(OTHER))
    assert refusals.release("ScaledObject") == {KEY}
    assert not refusals.waits(KEY, scaler) and refusals.waits(OTHER, front)


def test_a_parent_that_is_gone_leaves_nothing() -> None:
    store = Store()
    parent: Object = {"metadata": {"name": "demo", "namespace": "ns", "uid": "u", "resourceVersion": "1"}, "spec": {}}
    store.put("ModelService", parent)
    store.refusals.add(KEY, child("front"), "a quota")
    assert store.children(KEY).refusals == {"Service/front": "a quota"}
    store.remove("ModelService", parent)
    assert store.children(KEY).refusals == {}
