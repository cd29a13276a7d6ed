"""Logits to tokens, all rows of a step at once, on the device of the logits; one transfer brings the tokens back.

A row's token depends on the row alone. Its random number is a hash of its seed and its place, and the token is the one
at which the cumulative probability passes that number: whoever else is in the batch, the same one is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence as Several

import torch
from torch import Tensor

from modelyard_workloads.serve.generation.sequences import Sampling, Sequence, TokenLogprobs

_MASK = (1 << 64) - 1


def choose(logits: Tensor, sequences: Several[Sequence]) -> list[int]:
    """logits (N, V) float -> the next token of each of N sequences. The logits are changed."""
    for row, sequence in enumerate(sequences):
        _adjust(logits[row], sequence)
    chosen = logits.argmax(dim=1)
    drawn = [row for row, sequence in enumerate(sequences) if sequence.sampling.temperature > 0]
    if drawn:
        rows = torch.tensor(drawn, device=logits.device)
        chosen[rows] = _draw(logits[rows], [sequences[row] for row in drawn])
    tokens: list[int] = chosen.tolist()
    return tokens


def uniform(seed: int, place: int) -> float:
    """A number in [0, 1) that is always the same for the same seed and place; SplitMix64 (Steele et al. 2014)."""
    state = (seed ^ 0x9E3779B97F4A7C15 * (place + 1)) & _MASK
    for _ in range(2):
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = ((state ^ state >> 30) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & _MASK
        state = mixed ^ mixed >> 31
    return (state >> 11) / (1 << 53)


def log_probabilities(logits: Tensor, targets: Several[int], top: Several[int]) -> list[TokenLogprobs]:
    """logits (N, V), the tokens that are there, how many of the most probable ones to name -> N entries."""
    normalised = torch.log_softmax(logits.float(), dim=-1)
    places = torch.tensor(targets, device=logits.device)
    there: list[float] = normalised.gather(1, places.unsqueeze(1)).squeeze(1).tolist()
    best = torch.topk(normalised, min(max(top), normalised.shape[1]), dim=1)
    values, indices = best.values.tolist(), best.indices.tolist()
    return [
        TokenLogprobs(token, there[row], tuple(zip(indices[row][: top[row]], values[row][: top[row]], strict=True)))
        for row, token in enumerate(targets)
    ]


def _adjust(logits: Tensor, sequence: Sequence) -> None:
    """Bias, forbidden ends and penalties of one row (V,), in place. Most rows have none."""
    sampling = sequence.sampling
    if sampling.logit_bias:
        tokens = torch.tensor(list(sampling.logit_bias), device=logits.device)
        logits.index_add_(0, tokens, logits.new_tensor(list(sampling.logit_bias.values())))
    if sequence.generated < sampling.min_tokens and sampling.stop_tokens:
        logits[torch.tensor(list(sampling.stop_tokens), device=logits.device)] = -torch.inf
    if sampling.penalised:
        _penalise(logits, sequence)


def _penalise(logits: Tensor, sequence: Sequence) -> None:
    sampling = sequence.sampling
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted(set(sequence.tokens)), device=logits.device)
        values, penalty = logits[seen], sampling.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if sequence.generated and (sampling.presence_penalty or sampling.frequency_penalty):
        generated = torch.tensor(sequence.tokens[sequence.prompt_length :], device=logits.device)
        tokens, counts = torch.unique(generated, return_counts=True)
        logits[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts


def _draw(logits: Tensor, sequences: Several[Sequence]) -> Tensor:
    """(N, V) -> (N,) tokens by chance."""
    samplings = [sequence.sampling for sequence in sequences]
    temperatures = logits.new_tensor([max(sampling.temperature, 1e-5) for sampling in samplings])
    scaled = (logits - logits.amax(dim=1, keepdim=True)) / temperatures.unsqueeze(1)
    if any(sampling.min_p for sampling in samplings):
        floors = logits.new_tensor([sampling.min_p for sampling in samplings]).log().unsqueeze(1)
        scaled.masked_fill_(scaled < floors, -torch.inf)
    numbers = [uniform(s.sampling.seed, s.generated) for s in sequences]
    chosen = torch.empty(len(sequences), dtype=torch.int64, device=logits.device)
    for sort in (False, True):
        rows = [row for row, sampling in enumerate(samplings) if _needs_order(sampling) == sort]
        if rows:
            index = torch.tensor(rows, device=logits.device)
            numbers_here = torch.tensor([numbers[row] for row in rows], dtype=torch.float64, device=logits.device)
            draw = _draw_ordered if sort else _invert
            chosen[index] = draw(scaled[index], numbers_here, [samplings[row] for row in rows])
    return chosen


def _needs_order(sampling: Sampling) -> bool:
    return sampling.top_p < 1 or sampling.top_k > 0


def _invert(scaled: Tensor, numbers: Tensor, _: Several[Sampling]) -> Tensor:
    """The place at which the cumulative probability passes the number; double precision, so that it is below the sum
    and a token of probability zero is never the one.
    """
    cumulative = torch.softmax(scaled, dim=1, dtype=torch.float64).cumsum(dim=1)
    marks = numbers.unsqueeze(1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, marks, right=True).squeeze(1)


def _draw_ordered(scaled: Tensor, numbers: Tensor, samplings: Several[Sampling]) -> Tensor:
    """top_k, then top_p of what is left: the smallest set of the most probable ones that reaches top_p."""
    ordered, order = scaled.sort(dim=1, descending=True, stable=True)
    size = ordered.shape[1]
    most = torch.tensor([s.top_k if 0 < s.top_k < size else size for s in samplings], device=scaled.device)
    ranks = torch.arange(size, device=scaled.device)
    ordered.masked_fill_(ranks >= most.unsqueeze(1), -torch.inf)
    probabilities = torch.softmax(ordered, dim=1, dtype=torch.float64)
    before = probabilities.cumsum(dim=1) - probabilities
    shares = torch.tensor([s.top_p for s in samplings], dtype=torch.float64, device=scaled.device).unsqueeze(1)
    beyond = before >= shares
    beyond[:, 0] = False  # the most probable one always stays
    ordered.masked_fill_(beyond, -torch.inf)
    return order.gather(1, _invert(ordered, numbers, samplings).unsqueeze(1)).squeeze(1)
