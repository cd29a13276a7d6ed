"""Requests of the event loop to the engine and back.

The engine lives on the inference thread: jobs of that thread add sequences, forget them, and step. A step is a job
that queues the next one, so that what was asked meanwhile comes in between. What a step gave goes back in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Sequence as Several
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from modelyard_workloads.serve.batcher import BatchObserver, InferenceThread
from modelyard_workloads.serve.errors import DeadlineExceeded, InferenceFailed, InvalidInput, without_text
from modelyard_workloads.serve.generation.admission import Admission
from modelyard_workloads.serve.generation.metrics import GenerationMetrics
from modelyard_workloads.serve.generation.sequences import Piece, Sampling, Sequence

if TYPE_CHECKING:  # they import torch, which is imported when a model is built: adapters exist before
    from modelyard_workloads.serve.generation.engine import Engine
    from modelyard_workloads.serve.generation.language import Language

log = logging.getLogger(__name__)

MetricsPlace = tuple[CollectorRegistry, str]
"""Where to register metrics, and the model's name in them."""
Ask = tuple[list[int], Sampling]
"""A prompt's tokens, and how to go on from them."""


class _Choice:
    """One sequence as its client sees it: when it was asked for, when its last token came."""

    __slots__ = ("arrived", "first", "generation", "index", "last", "sequence", "tokens")

    def __init__(self, generation: Generation, index: int, sequence: Sequence) -> None:
        self.generation = generation
        self.index = index
        self.sequence = sequence
        self.arrived = monotonic()
        self.first = self.last = 0.0
        self.tokens = 0


class Generation:
    """The sequences of one request: iterate over what comes of them; leave it, and what is not done is dropped."""

    def __init__(self, service: GenerationService, asks: Several[Ask], first_key: int, deadline: float) -> None:
        self.sequences = [Sequence(first_key + i, tokens, sampling) for i, (tokens, sampling) in enumerate(asks)]
        self._service = service
        self._open = len(self.sequences)
        self._arrived: list[tuple[int, Piece]] = []
        self._failure: Exception | None = None
        self._news = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(deadline - monotonic(), 0), self._expire)

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._service.forget(self)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> list[tuple[int, Piece]]:
        """All that has come since the last time: (index of the sequence, piece), in order; at least one. Raises
        DeadlineExceeded and InferenceFailed.
        """
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if not self._open:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        arrived, self._arrived = self._arrived, []
        return arrived

    def arrive(self, index: int, piece: Piece) -> None:
        """A piece of one of the sequences."""
        if piece.finish is not None:
            self._open -= 1
        if piece.finish == "error":
            self._failure = InferenceFailed("the model failed on this request")
        else:
            self._arrived.append((index, piece))
        self._news.set()

    def _expire(self) -> None:
        self._failure = DeadlineExceeded("no end within the request's time; the request was dropped")
        self._service.forget(self)
        self._news.set()


class GenerationService:
    """Construct and use on the event loop's thread. `admission` says who may wait."""

    def __init__(
        self,
        engine: Engine,
        language: Language,
        thread: InferenceThread,
        admission: Admission,
        metrics: MetricsPlace,
        observer: BatchObserver,
    ) -> None:
        self.language = language
        self.limits = engine.limits
        self._engine = engine
        self._thread = thread
        self._admission = admission
        self._left_waiting = False  # by the latest step
        self._loop = asyncio.get_running_loop()
        self._keys = itertools.count(1)
        self._choices: dict[int, _Choice] = {}
        self._stepping = False  # of the inference thread
        self._observer = observer
        self._metrics = GenerationMetrics(*metrics, engine, lambda: self.depth)

    @property
    def depth(self) -> int:
        """Sequences that wait for their first step."""
        return max(len(self._choices) - len(self._engine.scheduler.running), 0)

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers since the start."""
        return self._metrics.total

    def check_room(self, count: int) -> None:
        """Raise unless so many sequences more may wait: see `Admission.check`.

        For whoever reads a request too: before its prompts are tokenised and multiplied by their choices.
        """
        running, depth = len(self._engine.scheduler.running), self.depth
        wait = self._admission.expected_wait(depth, running, self.limits.max_sequences, left_waiting=self._left_waiting)
        self._admission.check(count, depth, wait)

    def open(self, asks: Several[Ask], deadline: float) -> Generation:
        """Begin; `deadline` is a time of `time.monotonic`. Raises Saturated, and InvalidInput for what cannot fit."""
        self.check_room(len(asks))
        longest = self.limits.max_length
        for tokens, sampling in asks:
            if not tokens:
                raise InvalidInput("the prompt is empty; write at least one token")
            if (largest := max(tokens)) >= self.language.vocabulary:
                raise InvalidInput(
                    f"prompt: {largest} is no token of this model; they are 0 to {self.language.vocabulary - 1}"
                )
            if len(tokens) + sampling.max_tokens > longest:
                raise InvalidInput(
                    f"the prompt has {len(tokens)} tokens and the answer may have {sampling.max_tokens}; together the"
                    f" model takes at most {longest}: shorten the prompt or lower max_tokens"
                )
        first = next(self._keys)
        for _ in asks[1:]:
            next(self._keys)
        generation = Generation(self, asks, first, deadline)
        for index, sequence in enumerate(generation.sequences):
            self._choices[sequence.key] = _Choice(generation, index, sequence)
        self._thread.submit(lambda: self._add(generation.sequences))
        return generation

    def forget(self, generation: Generation) -> None:
        """Nobody waits for what is left of it."""
        left = [sequence.key for sequence in generation.sequences if sequence.key in self._choices]
        for key in left:
            choice = self._choices.pop(key)
            self._observe_end(choice, "abort", monotonic())
        if left:
            self._thread.submit(lambda: self._engine.drop(left))

    def _add(self, sequences: Several[Sequence]) -> None:
        """On the inference thread."""
        for sequence in sequences:
            self._engine.add(sequence)
        if not self._stepping:
            self._stepping = True
            self._thread.submit(self._step)

    def _step(self) -> None:
        """On the inference thread."""
        began = monotonic()
        try:
            pieces = self._engine.step()
        except Exception as error:
            log.error("a step failed; all of its sequences are given up", exc_info=without_text(error))
            pieces = self._engine.give_up()
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            stepped = self._engine.stepped, self._engine.left_waiting
            self._loop.call_soon_threadsafe(self._deliver, pieces, stepped, monotonic() - began)
        if self._engine.idle:
            self._stepping = False
        else:
            self._thread.submit(self._step)

    def _deliver(self, pieces: list[Piece], stepped: tuple[int, bool], seconds: float) -> None:
        """`stepped`: how many sequences were computed for so many seconds, and whether others were left waiting."""
        now, waits = monotonic(), []
        sequences, self._left_waiting = stepped
        self._metrics.tokens(sum(piece.token is not None for piece in pieces))
        for piece in pieces:
            choice = self._choices.get(piece.key)
            if choice is None:
                continue  # its client has gone meanwhile
            if piece.token is not None:
                choice.tokens += 1
            if choice.first:
                self._metrics.next_token(now - choice.last)
            else:
                choice.first = now
                queued = choice.sequence.started - choice.arrived
                waits.append(queued)
                self._metrics.first_token(choice.sequence.prompt_length, queued, now - choice.arrived)
            choice.last = now
            if piece.finish is not None:
                del self._choices[piece.key]
                self._observe_end(choice, piece.finish, now)
            choice.generation.arrive(choice.index, piece)
        if sequences:
            self._observer.step(sequences, waits, seconds)

    def _observe_end(self, choice: _Choice, reason: str, now: float) -> None:
        self._metrics.ended(reason, choice.tokens, now - choice.arrived, choice.last - choice.first)
        if choice.sequence.started:
            self._admission.ended(now - choice.sequence.started)
        if choice.first:
            self._metrics.computed(choice.first - choice.sequence.started, choice.last - choice.first)
