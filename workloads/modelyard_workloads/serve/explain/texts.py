"""What BERT's tasks have in common: what each token contributed to a logit, against a text of [MASK] tokens.

[MASK] is how the model knows a word that it cannot see; special tokens and masks stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

from modelyard_workloads.data.wordpiece import MASK, special_id
from modelyard_workloads.models.bert import Encoder, PackedRows, pack_rows
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort, integrate

_TOKENS_AT_ONCE = 1024
Logit = Callable[[PackedRows, Tensor], Tensor]
"""Rows of S equal texts and their embeddings (S * T, W) -> the score of each, (S,)."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """Why did this text, `encoding`, get this logit? `inputs`: names of the first and the second text."""

    encoding: Encoding
    target: str
    logit: Logit
    inputs: Sequence[str]


class TokenAttribution:
    """Explains logits of networks on top of `encoder`."""

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer) -> None:
        self._encoder = encoder
        self._mask = special_id(tokenizer, MASK)

    def explain(self, question: Question, effort: Effort) -> Explanation:
        """Attributions (tokens,), special tokens left out: they are the baseline's too."""
        encoding = question.encoding
        tokens, types = np.array(encoding.ids), np.array(encoding.type_ids)
        seen = [place for place, text in enumerate(encoding.sequence_ids) if text is not None]
        hidden = tokens.copy()
        hidden[seen] = self._mask

        def score(embedded: Tensor) -> Tensor:
            count = len(embedded)
            return question.logit(pack_rows([tokens] * count, [types] * count), embedded.flatten(0, 1))

        with torch.no_grad():
            given, nothing = (self._encoder.embed(pack_rows([ids], [types])).unsqueeze(0) for ids in (tokens, hidden))
        together = max(1, _TOKENS_AT_ONCE // len(tokens))
        found = integrate(score, (given,), (nothing,), effort, together=together)
        return Explanation(
            target=question.target,
            output=found.output,
            baseline=found.baseline,
            delta=found.delta,
            steps=found.steps,
            attributions=found.attributions[0].sum(dim=1)[seen].numpy(),
            features=_features(encoding, seen, question.inputs),
        )


def _features(encoding: Encoding, seen: Sequence[int], inputs: Sequence[str]) -> dict[str, list[str] | list[int]]:
    """Tokens, the input each is from, and which characters of it they are."""
    return {
        "input": [inputs[encoding.sequence_ids[place] or 0] for place in seen],
        "token": [encoding.tokens[place] for place in seen],
        "start": [encoding.offsets[place][0] for place in seen],
        "end": [encoding.offsets[place][1] for place in seen],
    }
