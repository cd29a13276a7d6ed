"""The work queue: dedupe, exclusivity, timers, back-off."""

from __future__ import annotations

import asyncio

from modelyard_operator.workqueue import WorkQueue


async def test_a_key_added_twice_is_worked_on_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a")
    assert await queue.get() == "a"
    assert len(queue) == 0


async def test_a_key_added_during_its_work_is_worked_on_again_and_not_before() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    key = await queue.get()
    queue.add("a")
    assert len(queue) == 0
    queue.done(key)
    assert await asyncio.wait_for(queue.get(), 1) == "a"


async def test_never_two_workers_on_one_key_and_nothing_is_lost() -> None:
    queue: WorkQueue[int] = WorkQueue()
    busy: set[int] = set()
    seen: dict[int, int] = {}

    async def work() -> None:
        while True:
            key = await queue.get()
            assert key not in busy
            busy.add(key)
            await asyncio.sleep(0)
            seen[key] = seen.get(key, 0) + 1
            busy.discard(key)
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(8)]
    for _ in range(50):
        for key in range(20):
            queue.add(key)
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    for worker in workers:
        worker.cancel()
    assert set(seen) == set(range(20)) and len(queue) == 0


async def test_of_several_timers_the_earliest_counts_and_fires_once() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 0.2)
    queue.add_after("a", 0.01)
    queue.add_after("a", 0.1)
    key = await asyncio.wait_for(queue.get(), 0.15)
    queue.done(key)
    await asyncio.sleep(0.25)
    assert len(queue) == 0, "the later timers were superseded"


async def test_work_done_in_the_meantime_drops_the_timer() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 0.05)
    queue.add("a")
    queue.done(await queue.get())
    await asyncio.sleep(0.1)
    assert len(queue) == 0


async def test_back_off_doubles_and_starts_anew_after_success() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = [queue.retry("a") for _ in range(12)]
    for number, delay in enumerate(delays):
        assert min(300, 2**number) * 0.5 <= delay <= min(300, 2**number)
    queue.forget("a")
    assert queue.retry("a") <= 1
    assert queue.retry("a", at_least=30) == 30, "Retry-After of the server is respected"


async def test_a_cancelled_waiter_passes_the_news_on() -> None:
    queue: WorkQueue[str] = WorkQueue()
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    assert await asyncio.wait_for(second, 60) == "a"
