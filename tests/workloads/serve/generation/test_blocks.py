"""The blocks of the cache: none is lost, none is given twice, prefixes are found again, neighbours stay neighbours."""

from __future__ import annotations

import random

import pytest
from modelyard_workloads.serve.generation.blocks import BlockPool, Table


def digest(*numbers: int) -> bytes:
    return bytes(numbers)


def filled(pool: BlockPool, count: int, expected: int = 0) -> Table:
    table = Table()
    assert pool.extend(table, count, expected or count)
    return table


def test_a_table_gets_neighbours_and_grows_into_its_window() -> None:
    pool = BlockPool(32, 16)
    first, second = filled(pool, 1, 8), filled(pool, 1, 8)
    for count in range(2, 9):  # in turns, as two sequences that generate
        assert pool.extend(first, count, 8)
        assert pool.extend(second, count, 8)
    assert first.side_by_side
    assert second.side_by_side
    pool.check([first, second])


def test_a_window_is_no_reservation() -> None:
    pool = BlockPool(8, 16)
    first = filled(pool, 1, 8)
    second = filled(pool, 7)
    assert pool.available == 0
    assert not pool.extend(first, 2, 8)
    pool.check([first, second])


def test_nothing_is_taken_when_there_is_not_enough() -> None:
    pool = BlockPool(4, 16)
    table = filled(pool, 2)
    assert not pool.extend(table, 5, 5)
    assert len(table.blocks) == 2
    assert pool.available == 2


def test_a_known_prefix_is_taken_over_and_shared() -> None:
    pool = BlockPool(8, 16)
    table = filled(pool, 3)
    for index, block in enumerate(table.blocks):
        pool.remember(block, digest(index))
    known = pool.known([digest(0), digest(1), digest(9), digest(2)])
    assert known == table.blocks[:2]
    other = Table()
    pool.take_over(other, known)
    pool.check([table, other])
    pool.release(table)
    pool.check([other])
    assert pool.known([digest(2)]) == [2]  # free, and still known
    pool.release(other)
    pool.check([])
    assert pool.available == 8


def test_empty_blocks_go_first_then_the_least_recently_used_and_the_ends_before_the_beginnings() -> None:
    pool = BlockPool(4, 16)
    for name in (0, 2):
        table = filled(pool, 2)
        pool.remember(table.blocks[0], digest(name))
        pool.remember(table.blocks[1], digest(name + 1))
        pool.release(table)
    assert len(pool.known([digest(0), digest(1)])) == 2
    filled(pool, 1)
    assert pool.known([digest(1)]) == []
    assert len(pool.known([digest(0)])) == len(pool.known([digest(2)])) == 1


def test_without_reuse_nothing_is_known() -> None:
    pool = BlockPool(4, 16, reuse=False)
    table = filled(pool, 1)
    pool.remember(table.blocks[0], digest(1))
    assert pool.known([digest(1)]) == []


@pytest.mark.parametrize("seed", range(20))
def test_the_accounts_are_right_after_any_life(seed: int) -> None:
    chance = random.Random(seed)
    pool = BlockPool(chance.randint(1, 40), 4, reuse=chance.random() < 0.8)
    tables: list[Table] = []
    for _ in range(300):
        action = chance.random()
        if action < 0.3:
            table = Table()
            pool.take_over(table, pool.known(digest(n) for n in range(chance.randint(0, 5))))
            tables.append(table)
        elif action < 0.7 and tables:
            table = chance.choice(tables)
            before, room = list(table.blocks), pool.available
            count = len(before) + chance.randint(0, 4)
            assert pool.extend(table, count, count + chance.randint(0, 6)) == (count - len(before) <= room)
            assert table.blocks[: len(before)] == before
            for index, block in enumerate(table.blocks):
                if chance.random() < 0.3:
                    pool.remember(block, digest(index))
        elif tables:
            pool.release(tables.pop(chance.randrange(len(tables))))
        pool.check(tables)
    for table in tables:
        pool.release(table)
    pool.check([])
    assert pool.available == pool.count
