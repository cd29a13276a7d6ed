"""What the next step computes: sequences that generate first, then prompts in pieces, within a budget of tokens.

Sequences are served in the order of their arrival. When blocks run out, the youngest gives all of its own back and
waits at the front of the queue; later it is computed again from its tokens, so its result is the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from modelyard_workloads.serve.generation.blocks import BlockPool
from modelyard_workloads.serve.generation.sequences import Sequence


@dataclass(frozen=True, slots=True)
class Work:
    """Compute `count` tokens of the sequence behind those that are computed."""

    sequence: Sequence
    count: int

    @property
    def completes(self) -> bool:
        """Is a token chosen after it?"""
        return self.count == self.sequence.remaining


@dataclass(slots=True)
class Counts:
    """Since the start."""

    preemptions: int = 0
    prefix_queries: int = 0  # tokens that were looked for among the known blocks
    prefix_hits: int = 0  # tokens that were found


class Scheduler:
    """Decides; holds no tensor. At most `max_sequences` run, a step has at most `max_step_tokens` tokens."""

    def __init__(self, pool: BlockPool, *, max_sequences: int, max_step_tokens: int) -> None:
        self._pool = pool
        self._max_sequences = max_sequences
        self._max_step_tokens = max_step_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # oldest first
        self.counts = Counts()

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit into the pool on its own."""
        needed = self._pool.blocks_for(sequence.longest)
        if needed > self._pool.count:
            raise ValueError(f"the sequence may need {needed} blocks, the cache has {self._pool.count}")
        self.waiting.append(sequence)

    def remove(self, sequences: Iterable[Sequence]) -> None:
        """Forget sequences, wherever they are: they ended, or nobody waits for them."""
        gone = set(map(id, sequences))
        if not gone:
            return
        for sequence in (*self.running, *self.waiting):
            if id(sequence) in gone:
                self._pool.release(sequence.table)
        self.running = [sequence for sequence in self.running if id(sequence) not in gone]
        self.waiting = deque(sequence for sequence in self.waiting if id(sequence) not in gone)

    def schedule(self) -> list[Work]:
        """The next step's work, one for a sequence; empty only when there is nothing to do."""
        works: list[Work] = []
        budget = self._max_step_tokens
        preempted = self.counts.preemptions
        # Generating ones first: a long prompt shall not hold up those who read.
        for sequence in sorted(self.running, key=lambda running: running.remaining > 1):
            count = min(sequence.remaining, budget)
            if count and sequence.table.blocks and self._make_room(sequence, count, works):
                works.append(Work(sequence, count))
                budget -= count
        while budget and self.waiting and self.counts.preemptions == preempted:
            count = self._admit(self.waiting[0], budget)
            if not count:
                break
            works.append(Work(self.running[-1], count))
            budget -= count
        return works

    def commit(self, works: Iterable[Work]) -> None:
        """The works are computed: remember the blocks that became full."""
        for work in works:
            sequence, size = work.sequence, self._pool.size
            full = sequence.computed // size
            sequence.computed += work.count
            for index in range(full, sequence.computed // size):
                self._pool.remember(sequence.table.blocks[index], sequence.digest(index, size))

    def _make_room(self, sequence: Sequence, count: int, works: list[Work]) -> bool:
        """Blocks for `count` more tokens, from others where need be; False: not in this step."""
        pool = self._pool
        needed = pool.blocks_for(sequence.computed + count)
        while not pool.extend(sequence.table, needed, pool.blocks_for(sequence.longest)):
            busy = {id(work.sequence) for work in works}
            victims = [other for other in self.running if other is not sequence and id(other) not in busy]
            if not victims:
                return False
            self._preempt(victims[-1])
        return True

    def _preempt(self, victim: Sequence) -> None:
        self._pool.release(victim.table)
        self.running.remove(victim)
        victim.computed = 0
        victim.preemptions += 1
        self.counts.preemptions += 1
        self.waiting.appendleft(victim)

    def _admit(self, sequence: Sequence, budget: int) -> int:
        """Let the first waiting one run; how many tokens of it are computed in this step, 0: it waits on."""
        pool = self._pool
        if len(self.running) >= self._max_sequences:
            return 0
        known = self._known(sequence)
        needed = pool.blocks_for(len(sequence.tokens)) - len(known) + pool.unused_among(known)
        # Others that run get what their prompts lack and a block each to go on with: who enters shall not be preempted
        # at once.
        promised = sum(pool.blocks_for(len(s.tokens)) - len(s.table.blocks) + 1 for s in self.running)
        if self.running and needed + promised > pool.available:
            return 0
        pool.take_over(sequence.table, known)
        sequence.computed = len(known) * pool.size
        count = min(sequence.remaining, budget)
        if not pool.extend(
            sequence.table, pool.blocks_for(sequence.computed + count), pool.blocks_for(sequence.longest)
        ):
            pool.release(sequence.table)
            sequence.computed = 0
            return 0
        if not sequence.needs_all_logits:
            self.counts.prefix_queries += len(sequence.tokens)
            self.counts.prefix_hits += sequence.computed
        self.running.append(self.waiting.popleft())
        return count

    def _known(self, sequence: Sequence) -> list[int]:
        """Blocks of its beginning that need not be computed; at least one token must be, to choose the next from."""
        if sequence.needs_all_logits:
            return []
        full = (len(sequence.tokens) - 1) // self._pool.size
        return self._pool.known(sequence.digest(index, self._pool.size) for index in range(full))
