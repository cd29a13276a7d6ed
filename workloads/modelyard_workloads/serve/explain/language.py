"""causal-lm: what each token of a prompt contributed to the log-likelihood of its most probable continuation.

The baseline is a prompt of tokens that end a text, with the same continuation. Attention is PyTorch's own: the engine
and its cache keep no gradients.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from modelyard_workloads.artifact import Artifact
from modelyard_workloads.data.bpe import read_tokenizer
from modelyard_workloads.models.decoder import Decoder
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.gradients import Effort, integrate
from modelyard_workloads.serve.generation.language import Language
from modelyard_workloads.serve.generation.runtime import INFER_TOKENS, TEXT_IN, load_decoder
from modelyard_workloads.serve.tensors import Array

_TOKENS_AT_ONCE = 512


class LanguageExplainer:
    """Explains the continuation that a request for tensors gets: INFER_TOKENS tokens, or up to the end of the text."""

    def __init__(self, decoder: Decoder, language: Language, end: int) -> None:
        self._decoder = decoder.eval().requires_grad_(False)
        self._language = language
        self._end = end

    def explain(self, arrays: Mapping[str, Array], row: int, effort: Effort) -> Explanation:
        """{text_input: BYTES [B]} -> attributions (tokens of the prompt,)"""
        prompt = self._language.codec.encode(arrays[TEXT_IN][row].decode())
        context = self._decoder.config.context
        if not 0 < len(prompt) < context:
            raise InvalidInput(
                f"input '{TEXT_IN}': has {len(prompt)} tokens; 1 to {context - 1} leave room for a continuation"
            )
        answer = self._continuation(prompt)
        embed = self._decoder.embedding
        behind = embed(torch.tensor([answer[:-1]], dtype=torch.int64))
        targets = torch.tensor(answer)

        def score(embedded: Tensor) -> Tensor:
            whole = torch.cat([embedded, behind.expand(len(embedded), -1, -1)], dim=1)
            logits = self._decoder.head(self._decoder.hidden_of(whole)[:, len(prompt) - 1 :])
            chances = logits.log_softmax(dim=2)
            return chances.gather(2, targets.expand(len(embedded), -1).unsqueeze(2)).sum(dim=(1, 2))  # type: ignore[no-any-return]

        given, nothing = embed(torch.tensor([prompt])), embed(torch.full((1, len(prompt)), self._end))
        together = max(1, _TOKENS_AT_ONCE // (len(prompt) + len(answer)))
        found = integrate(score, (given,), (nothing,), effort, together=together)
        codec = self._language.codec
        return Explanation(
            target=codec.decode(answer),
            output=found.output,
            baseline=found.baseline,
            delta=found.delta,
            steps=found.steps,
            attributions=found.attributions[0].sum(dim=1).numpy(),
            features={"token": [codec.piece(token) for token in prompt]},
        )

    @torch.no_grad()
    def _continuation(self, prompt: list[int]) -> list[int]:
        """The most probable tokens; the one that ends the text is the last."""
        tokens = list(prompt)
        while len(tokens) < min(len(prompt) + INFER_TOKENS, self._decoder.config.context):
            hidden = self._decoder.hidden(torch.tensor([tokens]))[0, -1]
            tokens.append(int(self._decoder.head(hidden).argmax()))
            if tokens[-1] in self._language.ends:
                break
        return tokens[len(prompt) :]


def build(artifact: Artifact) -> LanguageExplainer:
    """Raises DataError and LoadFailure."""
    decoder, language = load_decoder(artifact)
    return LanguageExplainer(decoder, language, read_tokenizer(artifact.path).end)
