"""How the pieces of a generation become a completion or a chat completion, whole or in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

from modelyard_workloads.serve.generation.sequences import Piece, TokenLogprobs
from modelyard_workloads.serve.generation.sequences import Sequence as TokenSequence
from modelyard_workloads.serve.generation.text import TextCodec
from modelyard_workloads.serve.openai_replies import CompletionLogprobs, Head, chat_logprobs, usage

Arrived = Sequence[tuple[int, Piece]]


class Form(Protocol):
    """What both kinds of reply can do."""

    head: Head

    def keep(self, index: int, piece: Piece) -> None:
        """A piece for `whole`."""

    def whole(self) -> dict[str, Any]:
        """The reply, of all that was kept."""

    def chunks(self, arrived: Arrived) -> Iterator[Mapping[str, Any]]:
        """The choices of a stream's next chunks."""

    def usage(self) -> dict[str, int]:
        """Tokens, when all is done."""


class _Pieces:
    """Keeps pieces by choice, and counts tokens."""

    def __init__(self, head: Head, codec: TextCodec, sequences: Sequence[TokenSequence]) -> None:
        self.head = head
        self._codec = codec
        self._sequences = sequences
        self._kept: list[list[Piece]] = [[] for _ in sequences]
        self._tokens = 0
        self._choices_a_prompt = 1

    def keep(self, index: int, piece: Piece) -> None:
        self._tokens += piece.token is not None
        self._kept[index].append(piece)

    def usage(self) -> dict[str, int]:
        prompts = self._sequences[:: self._choices_a_prompt]
        return usage(sum(sequence.prompt_length for sequence in prompts), self._tokens)

    def _grouped(self, arrived: Arrived) -> Iterator[tuple[int, list[Piece]]]:
        """What came for each choice since the last time, together."""
        for index, group in groupby(sorted(arrived, key=lambda each: each[0]), key=lambda each: each[0]):
            pieces = [piece for _, piece in group]
            self._tokens += sum(piece.token is not None for piece in pieces)
            yield index, pieces


class CompletionForm(_Pieces):
    """`echoes`: texts of the prompts, empty without echo; `choices` of each prompt stand side by side."""

    def __init__(
        self,
        head: Head,
        codec: TextCodec,
        sequences: Sequence[TokenSequence],
        logprobs: int | None,
        echoes: Sequence[str],
        choices: int,
    ) -> None:
        super().__init__(head, codec, sequences)
        self._choices_a_prompt = choices
        self._echoes = echoes
        self._logprobs = None if logprobs is None else [CompletionLogprobs(codec) for _ in sequences]
        self._begun: set[int] = set()

    def whole(self) -> dict[str, Any]:
        """See `Form`."""
        return self.head.reply([self._choice(index, pieces) for index, pieces in enumerate(self._kept)], self.usage())

    def chunks(self, arrived: Arrived) -> Iterator[Mapping[str, Any]]:
        """See `Form`."""
        for index, pieces in self._grouped(arrived):
            choice = self._choice(index, pieces)
            if choice["text"] or choice["logprobs"] or choice["finish_reason"]:
                yield choice

    def _choice(self, index: int, pieces: list[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        entries: list[TokenLogprobs | int] = [piece.logprobs for piece in pieces if piece.logprobs is not None]
        if self._echoes and index not in self._begun:
            sequence = self._sequences[index]
            text = self._echoes[index // self._choices_a_prompt] + text
            entries = [sequence.tokens[0], *sequence.prompt_logprobs, *entries]
        self._begun.add(index)
        return {
            "index": index,
            "text": text,
            "logprobs": self._logprobs[index].of(entries) if self._logprobs else None,
            "finish_reason": pieces[-1].finish,
        }


class ChatForm(_Pieces):
    """The choices of one conversation."""

    def __init__(self, head: Head, codec: TextCodec, sequences: Sequence[TokenSequence], logprobs: bool) -> None:
        super().__init__(head, codec, sequences)
        self._choices_a_prompt = len(sequences)
        self._logprobs = logprobs
        self._begun: set[int] = set()

    def whole(self) -> dict[str, Any]:
        """See `Form`."""
        choices = []
        for index, pieces in enumerate(self._kept):
            content = "".join(piece.text for piece in pieces)
            message = {"role": "assistant", "content": content, "refusal": None}
            choices.append({"index": index, "message": message, **self._rest(pieces)})
        return self.head.reply(choices, self.usage())

    def chunks(self, arrived: Arrived) -> Iterator[Mapping[str, Any]]:
        """See `Form`."""
        for index, pieces in self._grouped(arrived):
            if index not in self._begun:
                self._begun.add(index)
                delta = {"role": "assistant", "content": ""}
                yield {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            text, rest = "".join(piece.text for piece in pieces), self._rest(pieces)
            if text or rest["logprobs"] or rest["finish_reason"]:
                yield {"index": index, "delta": {"content": text} if text else {}, **rest}

    def _rest(self, pieces: list[Piece]) -> dict[str, Any]:
        logprobs = chat_logprobs(self._codec, pieces) if self._logprobs else None
        return {"logprobs": logprobs, "finish_reason": pieces[-1].finish}
