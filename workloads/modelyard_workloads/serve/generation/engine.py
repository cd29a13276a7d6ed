"""The engine: one step for all sequences at a time. Everything here runs on the inference thread."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass
from time import monotonic

import torch
from torch import Tensor

from modelyard_workloads.models.decoder import Decoder
from modelyard_workloads.serve.errors import LoadFailure, without_text
from modelyard_workloads.serve.generation import sampler
from modelyard_workloads.serve.generation.blocks import BlockPool
from modelyard_workloads.serve.generation.cache import KeyValueCache, PagedAttention, bytes_per_token
from modelyard_workloads.serve.generation.decode import MakeRunner, graph_runner
from modelyard_workloads.serve.generation.scheduler import Scheduler, Work
from modelyard_workloads.serve.generation.sequences import FinishReason, Piece, Sequence, TokenLogprobs
from modelyard_workloads.serve.generation.text import Detokenizer, StopStrings, TextCodec

log = logging.getLogger(__name__)

BLOCK_TOKENS = 16
_HEAD_ROWS = 64  # of logits at a time, where a whole prompt's are wanted: a row has as many numbers as the vocabulary


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """`max_length`: tokens of prompt and answer; `max_step_tokens`: of all sequences in one step."""

    max_length: int
    max_sequences: int
    max_step_tokens: int
    cache_bytes: int
    prefix_caching: bool


@dataclass(slots=True)
class _Reader:
    """From a sequence's tokens to the text that its client may see."""

    detokenizer: Detokenizer
    stops: StopStrings

    def add(self, token: int, *, may_stop: bool) -> tuple[str, bool]:
        return self.stops.add(self.detokenizer.add(token), armed=may_stop)

    def finish(self) -> str:
        text, stopped = self.stops.add(self.detokenizer.finish())
        return text if stopped else text + self.stops.finish()


class Engine:
    """Sequences go in, pieces come out, a step at a time."""

    def __init__(
        self,
        model: Decoder,
        codec: TextCodec,
        limits: EngineLimits,
        device: torch.device,
        *,
        together: bool | None = None,
        runner_of: MakeRunner = graph_runner,
    ) -> None:
        """`together`: see `PagedAttention`; as the device likes it, when nothing is said. `runner_of`: what computes
        sequences with one token; None: they go with the others. Raises LoadFailure when the cache cannot hold one
        sequence of the greatest length.
        """
        self._together = device.type != "cpu" if together is None else together
        self.limits = limits
        self._model = model.to(device).eval()
        self._codec = codec
        self._device = device
        self.dtype = dtype = model.embedding.weight.dtype
        per_block = bytes_per_token(model.config, dtype) * BLOCK_TOKENS
        # More blocks than all sequences can fill would only be read from the start of the process on.
        most = limits.max_sequences * -(-limits.max_length // BLOCK_TOKENS) * 4
        count = min(limits.cache_bytes // per_block, most)
        self.pool = BlockPool(max(count, 1), BLOCK_TOKENS, reuse=limits.prefix_caching)
        needed = self.pool.blocks_for(limits.max_length)
        if needed > count:
            raise LoadFailure(
                "ModelLoadFailed",
                f"generation.kvCacheMemory: {limits.cache_bytes} bytes hold {max(count, 0) * BLOCK_TOKENS} tokens; one"
                f" sequence may have {limits.max_length}: write at least {needed * per_block} bytes, or a"
                f" generation.maxModelLen of at most {max(count, 1) * BLOCK_TOKENS}",
            )
        # One more than the pool knows: what is computed for no sequence goes there.
        self._cache = KeyValueCache(model.config, count + 1, BLOCK_TOKENS, dtype=dtype, device=device)
        self.scheduler = Scheduler(
            self.pool, max_sequences=limits.max_sequences, max_step_tokens=limits.max_step_tokens
        )
        self._readers: dict[int, _Reader] = {}
        self.stepped = 0  # sequences in the latest step
        self.left_waiting = False  # by it: there was no place for all
        # A product with few rows reads a matrix by columns up to twice as fast on a CPU; the head is the largest one.
        head = self._model.head.weight.detach()
        self._head = head.t().contiguous() if device.type == "cpu" else head.t()  # (W, V)
        self._runner = runner_of(
            self._model, self._cache, spare=count, most=limits.max_sequences, longest=limits.max_length
        )

    @property
    def idle(self) -> bool:
        """Is there nothing to compute?"""
        return not (self.scheduler.running or self.scheduler.waiting)

    def add(self, sequence: Sequence) -> None:
        """Take a sequence on; its key is its own. It has at most `max_length` tokens in the end."""
        sampling = sequence.sampling
        self._readers[sequence.key] = _Reader(
            self._codec.detokenizer(), StopStrings(sampling.stop_strings, include=sampling.include_stop)
        )
        self.scheduler.add(sequence)

    def drop(self, keys: Iterable[int]) -> None:
        """Nobody waits for these any more; unknown ones have ended."""
        gone = set(keys) & self._readers.keys()
        queues = (*self.scheduler.running, *self.scheduler.waiting)
        self._end([sequence for sequence in queues if sequence.key in gone])

    def give_up(self) -> list[Piece]:
        """End all sequences as failed."""
        sequences = [*self.scheduler.running, *self.scheduler.waiting]
        self._end(sequences)
        return [Piece(sequence.key, finish="error") for sequence in sequences]

    def run(self, sequences: Several[Sequence]) -> dict[int, list[Piece]]:
        """Compute these alone to their ends: for the golden answers, before anybody else is there."""
        pieces: dict[int, list[Piece]] = {sequence.key: [] for sequence in sequences}
        for sequence in sequences:
            self.add(sequence)
        while not self.idle:
            for piece in self.step():
                pieces[piece.key].append(piece)
        return pieces

    @torch.inference_mode()
    def step(self) -> list[Piece]:
        """Compute what the scheduler says; a piece for each sequence that has a new token, or ended."""
        works = self.scheduler.schedule()
        self.stepped, self.left_waiting = len(works), bool(self.scheduler.waiting)
        now = monotonic()
        for work in works:
            work.sequence.started = work.sequence.started or now
        pieces: list[Piece] = []
        ended: list[Sequence] = []
        works, decoding = self._divided(works)
        if decoding:
            try:
                pieces += self._decoded(decoding, ended)
            except Exception as error:
                log.error("a decoding step of %d sequences failed", len(decoding), exc_info=without_text(error))
                works = decoding + works
        for group in self._computed(works, ended, pieces):
            pieces += self._advance(*group, ended)
        self._end(ended)
        return pieces

    def _divided(self, works: list[Work]) -> tuple[list[Work], list[Work]]:
        """The works for the model as it is, and those for the runner."""
        if self._runner is None:
            return works, []
        decoding = [work for work in works if work.count == 1 and _only_decodes(work)][: self._runner.most]
        chosen = set(map(id, decoding))
        return [work for work in works if id(work) not in chosen], decoding

    def _decoded(self, works: list[Work], ended: list[Sequence]) -> list[Piece]:
        """Sequences that have one token each, through the runner."""
        assert self._runner is not None
        sequences = [work.sequence for work in works]
        decoded = self._runner.run(sequences)
        best = decoded.best.tolist() if all(sequence.takes_most_probable for sequence in sequences) else None
        self.scheduler.commit(works)
        return self._choose(decoded.logits, sequences, ended, best)

    def _computed(
        self, works: list[Work], ended: list[Sequence], pieces: list[Piece]
    ) -> Iterable[tuple[list[Work], Tensor]]:
        """The works with their hidden states (T, W): together, or one by one where together they fail."""
        if not works:
            return
        try:
            hidden = self._hidden(works)
        except Exception as error:
            log.error("a step of %d sequences failed", len(works), exc_info=without_text(error))
            if len(works) > 1:
                for work in works:
                    yield from self._computed([work], ended, pieces)
                return
            ended.append(works[0].sequence)
            pieces.append(Piece(works[0].sequence.key, finish="error"))
            return
        yield works, hidden

    def _hidden(self, works: list[Work]) -> Tensor:
        """The works' tokens in one row through the model -> (T, W)"""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        for work in works:
            sequence = work.sequence
            begin, end = sequence.computed, sequence.computed + work.count
            tokens += sequence.tokens[begin:end]
            positions += range(begin, end)
            blocks = sequence.table.blocks
            slots += [blocks[p // BLOCK_TOKENS] * BLOCK_TOKENS + p % BLOCK_TOKENS for p in range(begin, end)]
        rows = torch.tensor([tokens, positions, slots], device=self._device)
        attention = PagedAttention(self._cache, works, rows[2], together=self._together)
        return self._model.hidden(rows[0:1], rows[1:2], attention)[0]

    def _advance(self, works: list[Work], hidden: Tensor, ended: list[Sequence]) -> list[Piece]:
        """Choose the next tokens where a sequence is computed to its end."""
        rows: list[int] = []
        sequences: list[Sequence] = []
        scored: list[Sequence] = []
        begin = 0
        for work in works:
            sequence = work.sequence
            if sequence.needs_all_logits:
                self._score_prompt(sequence, work.count, hidden[begin : begin + work.count])
            begin += work.count
            if work.completes and sequence.sampling.max_tokens:
                rows.append(begin - 1)
                sequences.append(sequence)
            elif work.completes:
                scored.append(sequence)
        self.scheduler.commit(works)
        ended += scored
        pieces = [Piece(sequence.key, finish="length") for sequence in scored]
        if sequences:
            last = hidden if len(rows) == len(hidden) else hidden[torch.tensor(rows, device=self._device)]
            pieces += self._choose(last @ self._head, sequences, ended)
        return pieces

    def _choose(
        self, logits: Tensor, sequences: list[Sequence], ended: list[Sequence], best: list[int] | None = None
    ) -> list[Piece]:
        """logits (N, V) of N sequences, changed; `best`: their next tokens, where nothing needs to be chosen."""
        asked = [row for row, sequence in enumerate(sequences) if sequence.sampling.logprobs is not None]
        raw = logits[torch.tensor(asked, device=self._device)] if asked else logits
        tokens = sampler.choose(logits.float(), sequences) if best is None else best
        named: dict[int, TokenLogprobs] = {}
        if asked:
            counts = [sequences[row].sampling.logprobs or 0 for row in asked]
            entries = sampler.log_probabilities(raw, [tokens[row] for row in asked], counts)
            named = dict(zip(asked, entries, strict=True))
        pieces: list[Piece] = []
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            sequence.tokens.append(token)
            text, reason = self._read(sequence, token)
            pieces.append(Piece(sequence.key, token, text, named.get(row), reason))
            if reason is not None:
                ended.append(sequence)
        return pieces

    def _read(self, sequence: Sequence, token: int) -> tuple[str, FinishReason | None]:
        """The text that a new token completes, and whether the sequence ends with it."""
        sampling, reader = sequence.sampling, self._readers[sequence.key]
        if token in sampling.stop_tokens:
            return reader.finish(), "stop"
        text, stopped = reader.add(token, may_stop=sequence.generated >= sampling.min_tokens)
        if stopped:
            return text, "stop"
        if sequence.generated >= sampling.max_tokens:
            return text + reader.finish(), "length"
        return text, None

    def _score_prompt(self, sequence: Sequence, count: int, hidden: Tensor) -> None:
        """Log-probabilities of the prompt's tokens that these `count` states (count, W) predict."""
        top = sequence.sampling.prompt_logprobs or 0
        first = sequence.computed + 1  # the token that the first state predicts
        known = len(sequence.prompt_logprobs) + 1
        for begin in range(max(known - first, 0), min(count, sequence.prompt_length - first), _HEAD_ROWS):
            end = min(begin + _HEAD_ROWS, count, sequence.prompt_length - first)
            targets = sequence.tokens[first + begin : first + end]
            logits = hidden[begin:end] @ self._head
            sequence.prompt_logprobs += sampler.log_probabilities(logits, targets, [top] * len(targets))

    def _end(self, sequences: list[Sequence]) -> None:
        self.scheduler.remove(sequences)
        for sequence in sequences:
            self._readers.pop(sequence.key, None)


def _only_decodes(work: Work) -> bool:
    sequence = work.sequence
    return work.completes and bool(sequence.sampling.max_tokens) and not sequence.needs_all_logits
