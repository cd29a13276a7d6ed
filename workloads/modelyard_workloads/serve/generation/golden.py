"""The golden gate of language models, through the very engine that will serve.

The artifact has prompts with the logits of the token after each (`golden`: `input_ids` INT64 [B, T] -> `logits` FP32
[B, V]), and prompts with their greedy continuations (`preprocess.greedy`: [{prompt, continuation}], lists of tokens).
All of them run together, as requests do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modelyard_workloads.artifact import Golden, Manifest
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.errors import LoadFailure
from modelyard_workloads.serve.generation.runtime import GenerationRuntime
from modelyard_workloads.serve.generation.sequences import Piece, Sampling
from modelyard_workloads.serve.generation.sequences import Sequence as TokenSequence
from modelyard_workloads.serve.golden import REASON
from modelyard_workloads.serve.tensors import Array

_BFLOAT16 = 2**-5
"""What bfloat16 is off from a training in float32, as absolute and relative error of log-probabilities: its numbers
have 8 bits, and errors add up over the layers."""
_NEAR = 5  # tokens that are looked at where a continuation differs


@dataclass(frozen=True)
class _Case:
    """A prompt with what the training recorded: the logits of the next token, or the greedy continuation."""

    where: str
    prompt: list[int]
    logits: Array | None = None
    continuation: tuple[int, ...] = ()

    def sequence(self, key: int) -> TokenSequence:
        count, near = (1, len(self.logits)) if self.logits is not None else (len(self.continuation), _NEAR)
        return TokenSequence(key, self.prompt, Sampling(max_tokens=count, temperature=0, logprobs=near))


def check_golden_generation(
    runtime: GenerationRuntime, manifest: Manifest, validation: ValidationSection
) -> tuple[int, float]:
    """How many cases were reproduced, and the largest difference of a log-probability. Raises LoadFailure
    (GoldenMismatch) that says where the first difference is, or that there is nothing to check although it is required.
    """
    if validation.golden == "Off":
        return 0, 0.0
    cases = [*_logits(manifest.golden), *_continuations(manifest.preprocess.get("greedy"))]
    if not cases and validation.golden == "Required":
        raise LoadFailure(REASON, "the artifact has no golden answers, and validation.golden is Required")
    known, longest = runtime.language.vocabulary, runtime.engine.limits.max_length
    for case in cases:
        if not case.prompt or not all(0 <= token < known for token in case.prompt):
            raise LoadFailure(REASON, f"{case.where}: the prompt is empty or has tokens that the model does not have")
    # A smaller generation.maxModelLen than the training's leaves some out.
    fitting = [case for case in cases if len(case.prompt) + max(len(case.continuation), 1) <= longest]
    if runtime.engine.dtype == torch.bfloat16:
        wider = {name: max(getattr(validation, name), _BFLOAT16) for name in ("rtol", "atol")}
        validation = validation.model_copy(update=wider)
    pieces = runtime.engine.run([case.sequence(key) for key, case in enumerate(fitting)])
    worst = max((_difference(case, pieces[key], validation) for key, case in enumerate(fitting)), default=0.0)
    return len(fitting), worst


def _logits(golden: Sequence[Golden]) -> Iterable[_Case]:
    for number, case in enumerate(golden):
        inputs = {value.name: value for value in case.inputs}
        outputs = {value.name: value for value in case.outputs}
        if "input_ids" not in inputs or "logits" not in outputs:
            raise LoadFailure(REASON, f"golden[{number}]: expected an input input_ids and an output logits")
        prompts, logits = inputs["input_ids"].data, outputs["logits"].data
        if len(prompts) != len(logits):
            raise LoadFailure(REASON, f"golden[{number}] has {len(prompts)} prompts and {len(logits)} answers")
        for row, (prompt, answer) in enumerate(zip(prompts, logits, strict=True)):
            values = np.asarray(answer, dtype=np.float64)
            yield _Case(f"golden[{number}], row {row}", [int(token) for token in prompt], logits=values)


def _continuations(greedy: Any) -> Iterable[_Case]:
    for number, case in enumerate(greedy or ()):
        where = f"preprocess.greedy[{number}]"
        try:
            prompt, continuation = ([int(token) for token in case[name]] for name in ("prompt", "continuation"))
        except (KeyError, TypeError, ValueError):
            raise LoadFailure(REASON, f"{where}: expected {{prompt, continuation}}, lists of tokens") from None
        if continuation:
            yield _Case(where, prompt, continuation=tuple(continuation))


def _difference(case: _Case, pieces: Sequence[Piece], validation: ValidationSection) -> float:
    """The largest difference of a log-probability that was let pass."""
    if case.logits is None:
        _compare_tokens(case, pieces, validation)
        return 0.0
    want = case.logits - np.logaddexp.reduce(case.logits)
    named = pieces[0].logprobs
    if named is None or len(named.top) != len(want):
        raise LoadFailure(REASON, f"{case.where}: the training recorded {len(want)} logits, the model gives others")
    got = np.empty(len(want))
    got[[token for token, _ in named.top]] = [value for _, value in named.top]
    difference = np.abs(got - want)
    bad = ~(difference <= validation.atol + validation.rtol * np.abs(want))  # written so that NaN fails
    if bad.any():
        token = int(np.argmax(bad))
        raise LoadFailure(
            REASON,
            f"{case.where}: {int(bad.sum())} of {bad.size} log-probabilities differ from the recorded ones, first of"
            f" token {token}: {got[token]:.6g} instead of {want[token]:.6g} (rtol {validation.rtol:g}, atol"
            f" {validation.atol:g})",
        )
    return float(difference.max())


def _compare_tokens(case: _Case, pieces: Sequence[Piece], validation: ValidationSection) -> None:
    for place, (piece, wanted) in enumerate(zip(pieces, case.continuation, strict=True)):
        if piece.token == wanted:
            continue
        assert piece.logprobs is not None
        near = dict(piece.logprobs.top).get(wanted)
        if near is not None and piece.logprobs.logprob - near <= validation.atol + validation.rtol * abs(near):
            return  # as probable within the tolerance: what follows may differ
        raise LoadFailure(
            REASON,
            f"{case.where}: token {place} of the continuation is {piece.token}, the training recorded {wanted}",
        )
