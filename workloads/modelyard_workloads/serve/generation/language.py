"""What a server knows of a model's language: its tokens, what ends a text, how a conversation is written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelyard_workloads.data.bpe import GENERATION_CONFIG, read_tokenizer
from modelyard_workloads.data.chat import ChatTemplate
from modelyard_workloads.serve.generation.text import TextCodec

_QUICK = 20_000  # characters that are encoded on the spot, in a few milliseconds


@dataclass(frozen=True, kw_only=True)
class Language:
    """`vocabulary`: tokens that the model knows; `ends`: those that end a text."""

    codec: TextCodec
    vocabulary: int
    ends: frozenset[int]
    template: ChatTemplate

    @classmethod
    def read(cls, directory: Path, vocabulary: int) -> Language:
        """From a directory in Hugging Face's layout. Raises DataError, OSError and ValueError."""
        tokenizer = read_tokenizer(directory)
        ends = {tokenizer.end, *_ends(directory / GENERATION_CONFIG)}
        return cls(
            codec=TextCodec(tokenizer.tokenizer),
            vocabulary=vocabulary,
            ends=frozenset(end for end in ends if 0 <= end < vocabulary),
            template=tokenizer.template,
        )

    async def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """The tokens of a text; a long one on another thread, so that others are answered meanwhile."""
        if len(text) <= _QUICK:
            return self.codec.encode(text, add_special=add_special)
        return await asyncio.to_thread(self.codec.encode, text, add_special=add_special)

    def conversation(self, messages: Sequence[Mapping[str, str]], *, answer_follows: bool) -> str:
        """A conversation as text. Raises ChatTemplateError."""
        return self.template.render(messages, answer_follows=answer_follows)


def _ends(path: Path) -> list[int]:
    """`eos_token_id` of generation_config.json: a number or a list; chat models name the end of a turn too."""
    if not path.is_file():
        return []
    found: Any = json.loads(path.read_bytes()).get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    return [token for token in listed if isinstance(token, int)]
