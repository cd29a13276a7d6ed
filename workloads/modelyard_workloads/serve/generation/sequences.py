"""A request inside the engine: its tokens, how far they are computed, and how the next one is chosen."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelyard_workloads.serve.generation.blocks import Table

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of one place: the token that is there, its log-probability, the most probable ones, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """What a step adds to a sequence. `token` is None where none was chosen: the prompt alone was asked for, or it
    failed.
    """

    key: int
    token: int | None = None
    text: str = ""  # characters that are complete now; a stop string and what follows it are left out
    logprobs: TokenLogprobs | None = None
    finish: FinishReason | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How one sequence's tokens are chosen, and when it ends.

    Order, as in vLLM: logit bias and forbidden ends, penalties, temperature, min_p, top_k, top_p. The random numbers
    depend on `seed` and the place in the sequence alone: a request's tokens do not depend on its company.
    """

    max_tokens: int  # 0: only the prompt is computed
    seed: int = 0
    temperature: float = 1.0  # 0: always the most probable token
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # Keskar et al. 2019; of prompt and generated tokens
    presence_penalty: float = 0.0  # of generated tokens, as OpenAI defines them
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0  # before this many no stop token is chosen
    stop_tokens: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    include_stop: bool = False  # the stop string stays in the text
    logprobs: int | None = None  # alternatives of each generated token; None: no log-probabilities
    prompt_logprobs: int | None = None  # the same of the prompt's tokens

    @property
    def penalised(self) -> bool:
        """Do the tokens so far change the logits?"""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


class Sequence:
    """Prompt and generated tokens in one list. `computed` of them are in the cache, in the blocks of `table`.

    A step computes some tokens behind `computed`; when it reaches the end of the list, a new one is chosen. That holds
    for a prompt in one piece or in many, for a single new token, and for a preempted sequence that begins again.
    """

    __slots__ = (
        "computed",
        "digests",
        "key",
        "preemptions",
        "prompt_length",
        "prompt_logprobs",
        "sampling",
        "started",
        "table",
        "tokens",
    )

    def __init__(self, key: int, prompt: list[int], sampling: Sampling) -> None:
        if not prompt:
            raise ValueError("a sequence begins with at least one token")
        self.key = key
        self.tokens = list(prompt)
        self.prompt_length = len(prompt)
        self.sampling = sampling
        self.computed = 0
        self.table = Table()
        self.digests: list[bytes] = []  # of its full blocks, each covers all tokens before it
        self.prompt_logprobs: list[TokenLogprobs] = []  # of tokens 1, 2, 3 …: nothing predicts the first one
        self.preemptions = 0
        self.started = 0.0  # time.monotonic of its first step

    @property
    def remaining(self) -> int:
        """Tokens that are not computed yet."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        """Tokens behind the prompt."""
        return len(self.tokens) - self.prompt_length

    @property
    def longest(self) -> int:
        """Tokens that it may come to have."""
        return self.prompt_length + self.sampling.max_tokens

    @property
    def takes_most_probable(self) -> bool:
        """Is the next token the one with the largest logit, just as the model gives them?"""
        sampling = self.sampling
        ends_are_free = self.generated >= sampling.min_tokens or not sampling.stop_tokens
        return sampling.temperature <= 0 and ends_are_free and not (sampling.logit_bias or sampling.penalised)

    @property
    def needs_all_logits(self) -> bool:
        """Must the prompt be computed even where its keys and values are known?"""
        return self.sampling.prompt_logprobs is not None and len(self.prompt_logprobs) < self.prompt_length - 1

    def digest(self, index: int, size: int) -> bytes:
        """Of full block `index`: 128 bits over its tokens and all before them."""
        while len(self.digests) <= index:
            place = len(self.digests)
            before = self.digests[-1] if place else b""
            content = array("q", self.tokens[place * size : (place + 1) * size]).tobytes()
            self.digests.append(hashlib.blake2b(before + content, digest_size=16).digest())
        return self.digests[index]
