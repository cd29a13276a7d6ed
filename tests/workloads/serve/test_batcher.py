"""Batching: the answers of one-by-one whatever is interleaved, cancelled, late or poisoned; and no wait when idle."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Mapping
from time import monotonic

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard_workloads.serve.batcher import Batcher, BatchLimits, InferenceThread
from modelyard_workloads.serve.dataplane import Statistics
from modelyard_workloads.serve.errors import DeadlineExceeded, InferenceFailed, Saturated
from modelyard_workloads.serve.tensors import Array
from servers.rows import POISON, RowModel

FAR = 60.0


@pytest.fixture(scope="module")
def thread() -> InferenceThread:
    thread = InferenceThread()
    thread.start()
    return thread


def make(model: RowModel, thread: InferenceThread, **limits: float) -> Batcher:
    chosen = {"max_rows": 8, "max_latency": 0.0, "max_queue": 1000, "max_requests": 8, "max_wait": FAR, **limits}
    return Batcher(model.predict, BatchLimits(**chosen), thread, Statistics())  # type: ignore[arg-type]


def ask(batcher: Batcher, x: Array, seconds: float = FAR) -> Awaitable[dict[str, Array]]:
    return batcher.submit({"x": x}, x.shape[1:], monotonic() + seconds)


def alone(x: Array) -> Array:
    return RowModel().predict({"x": x})["y"]


def rows(count: int, width: int = 3, start: float = 0.0) -> Array:
    return (np.arange(count * width, dtype=np.float32).reshape(count, width) + np.float32(start)) / 7


async def test_a_lone_request_is_computed_at_once_even_with_a_long_latency(thread: InferenceThread) -> None:
    batcher = make(RowModel(), thread, max_latency=5.0)
    started = monotonic()
    await ask(batcher, rows(1))
    assert monotonic() - started < 1.0


async def test_requests_of_one_turn_share_a_batch(thread: InferenceThread) -> None:
    model = RowModel()
    batcher = make(model, thread)
    await asyncio.gather(*(ask(batcher, rows(1, start=i)) for i in range(8)))
    assert model.batches == [8]


async def test_among_several_clients_a_few_turns_are_waited_for_the_next(thread: InferenceThread) -> None:
    model = RowModel()
    batcher = make(model, thread, max_latency=FAR)
    await asyncio.gather(*(ask(batcher, rows(1, start=i)) for i in range(2)))
    first = asyncio.ensure_future(ask(batcher, rows(1)))
    for _ in range(4):
        await asyncio.sleep(0)
    await asyncio.gather(first, ask(batcher, rows(1, start=1)))
    assert model.batches == [2, 2]
    async with asyncio.timeout(FAR / 2):
        await ask(batcher, rows(1))
    assert model.batches == [2, 2, 1], "who is alone waits a few turns, not the whole latency"


async def test_requests_collect_while_the_model_is_busy_up_to_the_batch_size(thread: InferenceThread) -> None:
    model = RowModel()
    model.gate.clear()
    batcher = make(model, thread)
    first = asyncio.ensure_future(ask(batcher, rows(1)))
    await asyncio.sleep(0.05)
    others = [asyncio.ensure_future(ask(batcher, rows(1, start=i))) for i in range(12)]
    await asyncio.sleep(0.05)
    assert batcher.depth == 12
    model.gate.set()
    await asyncio.gather(first, *others)
    assert model.batches == [1, 8, 4]


async def test_concurrency_limits_the_requests_computed_together(thread: InferenceThread) -> None:
    model = RowModel()
    batcher = make(model, thread, max_requests=2)
    await asyncio.gather(*(ask(batcher, rows(1, start=i)) for i in range(5)))
    assert model.batches == [2, 2, 1]


async def test_a_request_larger_than_a_batch_is_computed_in_pieces(thread: InferenceThread) -> None:
    model = RowModel()
    x = rows(21)
    answer = await ask(make(model, thread), x)
    assert model.batches == [8, 8, 5]
    np.testing.assert_allclose(answer["y"], alone(x))


async def test_requests_of_different_shapes_never_share_a_batch(thread: InferenceThread) -> None:
    model = RowModel()
    batcher = make(model, thread)
    xs = [rows(1, width=width) for width in (3, 4, 3, 4)]
    answers = await asyncio.gather(*(ask(batcher, x) for x in xs))
    assert model.batches == [2, 2]
    for x, answer in zip(xs, answers, strict=True):
        np.testing.assert_allclose(answer["y"], alone(x))


async def test_a_waiting_request_waits_for_one_that_is_arriving_but_not_longer(thread: InferenceThread) -> None:
    model = RowModel()
    batcher = make(model, thread, max_latency=0.2)
    arrived = batcher.announce()
    first = asyncio.ensure_future(ask(batcher, rows(1)))
    await asyncio.sleep(0.05)
    second = asyncio.ensure_future(ask(batcher, rows(1)))
    arrived()
    await asyncio.gather(first, second)
    assert model.batches == [2]

    batcher.announce()  # this one never comes
    started = monotonic()
    await ask(batcher, rows(1))
    assert 0.15 < monotonic() - started < 1.0
    started = monotonic()
    await ask(batcher, rows(1))
    assert monotonic() - started < 0.15  # and is not waited for twice


async def test_the_queue_is_bounded(thread: InferenceThread) -> None:
    model = RowModel()
    model.gate.clear()
    batcher = make(model, thread, max_queue=3)
    first = asyncio.ensure_future(ask(batcher, rows(1)))
    await asyncio.sleep(0.05)
    waiting = [asyncio.ensure_future(ask(batcher, rows(1))) for _ in range(3)]
    await asyncio.sleep(0.01)
    with pytest.raises(Saturated):
        await ask(batcher, rows(1))
    model.gate.set()
    await asyncio.gather(first, *waiting)


async def test_expired_and_cancelled_requests_are_dropped_before_they_cost_anything(thread: InferenceThread) -> None:
    model = RowModel()
    model.gate.clear()
    batcher = make(model, thread)
    first = asyncio.ensure_future(ask(batcher, rows(1)))
    await asyncio.sleep(0.02)
    late = asyncio.ensure_future(ask(batcher, rows(2), seconds=0.02))
    cancelled = asyncio.ensure_future(ask(batcher, rows(3)))
    last = asyncio.ensure_future(ask(batcher, rows(1)))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(DeadlineExceeded):
        await late
    await asyncio.sleep(0)
    assert batcher.depth == 1
    model.gate.set()
    await asyncio.gather(first, last)
    assert model.batches == [1, 1]


async def test_the_deadline_holds_while_the_model_computes(thread: InferenceThread) -> None:
    batcher = make(RowModel(seconds=0.3), thread)
    started = monotonic()
    with pytest.raises(DeadlineExceeded):
        await ask(batcher, rows(1), seconds=0.05)
    assert monotonic() - started < 0.25


async def test_each_deadline_holds_in_whatever_order_they_come(thread: InferenceThread) -> None:
    model = RowModel()
    model.gate.clear()
    batcher = make(model, thread)
    ended: list[float] = []

    async def expire(seconds: float) -> None:
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, rows(1), seconds)
        ended.append(seconds)

    patient = asyncio.ensure_future(ask(batcher, rows(1)))
    await asyncio.gather(*(expire(seconds) for seconds in (0.1, 0.3, 0.2, 0.0)))
    model.gate.set()
    await patient
    assert ended == [0.0, 0.1, 0.2, 0.3]


async def test_a_poisoned_request_fails_alone(thread: InferenceThread) -> None:
    model = RowModel()
    batcher = make(model, thread, max_rows=32, max_requests=32)
    xs = [rows(1, start=i) for i in range(31)]
    poison = np.full((1, 3), POISON, np.float32)
    answers = await asyncio.gather(*(ask(batcher, x) for x in [*xs, poison]), return_exceptions=True)
    assert isinstance(answers[-1], InferenceFailed)
    assert "666" not in str(answers[-1])
    for x, answer in zip(xs, answers[:-1], strict=True):
        assert isinstance(answer, dict)
        np.testing.assert_allclose(answer["y"], alone(x), rtol=1e-5)


async def test_a_queue_that_would_take_too_long_takes_no_more(thread: InferenceThread) -> None:
    def slow(arrays: Mapping[str, Array]) -> dict[str, Array]:
        time.sleep(0.05)
        return {"y": arrays["x"]}

    limits = BatchLimits(max_rows=1, max_latency=0, max_queue=1000, max_requests=1, max_wait=0.5)
    batcher = Batcher(slow, limits, thread, Statistics())
    await ask(batcher, rows(1))
    answers = await asyncio.gather(*(ask(batcher, rows(1)) for _ in range(40)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Saturated)]
    assert 40 - 12 <= len(refused) < 40, "ten of 50 ms are half a second"
    assert sum(isinstance(answer, dict) for answer in answers) == 40 - len(refused)
    await ask(batcher, rows(1))


async def test_a_model_that_loses_rows_is_an_error_and_not_a_wrong_answer(thread: InferenceThread) -> None:
    def broken(_: object) -> dict[str, Array]:
        return {"y": np.zeros((1, 2), np.float32)}

    limits = BatchLimits(max_rows=8, max_latency=0, max_queue=10, max_requests=8, max_wait=FAR)
    batcher = Batcher(broken, limits, thread, Statistics())
    with pytest.raises(InferenceFailed):
        await ask(batcher, rows(2))


request = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 12),
        "width": st.sampled_from([2, 3]),
        "pause": st.sampled_from([0, 0, 0, 0.001]),
        "fate": st.sampled_from(["wait", "wait", "wait", "cancel", "late", "poison"]),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(request, min_size=1, max_size=25), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_any_interleaving_cancellation_timeout_and_poison_gives_the_answers_of_one_by_one(
    requests: list[dict[str, object]], max_rows: int, max_requests: int, slow: bool
) -> None:
    async def run() -> None:
        model = RowModel(seconds=0.002 if slow else 0)
        batcher = make(model, _shared(), max_rows=max_rows, max_requests=max_requests, max_latency=0.001)
        tasks = []
        for index, one in enumerate(requests):
            x = rows(int(one["rows"]), int(one["width"]), start=index * 100.0)  # type: ignore[call-overload]
            if one["fate"] == "poison":
                x[-1, 0] = POISON
            seconds = 0.0 if one["fate"] == "late" else FAR
            tasks.append((one["fate"], x, asyncio.ensure_future(ask(batcher, x, seconds))))
            await asyncio.sleep(float(one["pause"]))  # type: ignore[arg-type]
            if one["fate"] == "cancel":
                tasks[-1][2].cancel()
        for fate, x, task in tasks:
            await _check(str(fate), x, task)
        assert batcher.depth == 0
        assert all(count <= max_rows for count in model.batches)

    asyncio.run(run())


async def _check(fate: str, x: Array, task: asyncio.Future[dict[str, Array]]) -> None:
    expected: dict[str, type[BaseException]] = {
        "cancel": asyncio.CancelledError,
        "late": DeadlineExceeded,
        "poison": InferenceFailed,
    }
    allowed = expected.get(fate, ())
    with contextlib.suppress(*([allowed] if allowed else [])):  # a quick answer may beat a cancellation or a deadline
        answer = await task
        assert fate != "poison"
        np.testing.assert_allclose(answer["y"], alone(x), rtol=1e-5, atol=1e-5)
        assert answer["name"].tolist() == [str(x.shape[1]).encode()] * len(x)


def _shared() -> InferenceThread:
    """One thread for all examples."""
    for running in threading.enumerate():
        if isinstance(running, InferenceThread):
            return running
    thread = InferenceThread()
    thread.start()
    return thread
