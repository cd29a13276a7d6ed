"""Text to tokens and back. Going back piece by piece, no piece ends inside a character, and all of them together are
what the tokenizer makes of all tokens at once.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
_REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 4  # tokens, where a token can be a single byte


class TextCodec:
    """A tokenizer of Hugging Face's format (tokenizer.json)."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {
            index for index, added in tokenizer.get_added_tokens_decoder().items() if getattr(added, "special", False)
        }
        description: dict[str, Any] = json.loads(tokenizer.to_str())
        # Byte-level vocabularies spell every byte as a character: tokens are bytes, whatever stands beside them.
        self._bytes: list[bytes] | None = None
        if (description.get("decoder") or {}).get("type") == "ByteLevel":
            self._bytes = [self._spelled(index) for index in range(self.vocabulary)]

    @classmethod
    def read(cls, directory: Path) -> TextCodec:
        """From a directory in Hugging Face's layout. Raises OSError and ValueError."""
        content = (directory / TOKENIZER).read_text(encoding="utf-8")
        try:
            return cls(Tokenizer.from_str(content))
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"{TOKENIZER} is not a tokenizer: {error}") from None

    @property
    def vocabulary(self) -> int:
        """Tokens, the added ones too; ids are below it."""
        indices = self._tokenizer.get_added_tokens_decoder()
        return max(int(self._tokenizer.get_vocab_size()), *(index + 1 for index in indices), 0)

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """The tokens of a text; `add_special`: with those that the tokenizer puts around it."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of all tokens, special ones left out."""
        if self._bytes is not None:
            known = self._bytes
            pieces = (known[token] for token in tokens if token not in self._special and token < len(known))
            return b"".join(pieces).decode(errors="replace")
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def piece(self, token: int) -> str:
        """One token for show, special ones too: as text, or `bytes:\\x…` where it is a part of a character."""
        if self._bytes is None:
            text: str = self._tokenizer.decode([token], skip_special_tokens=False)
            return text
        content = self.bytes_of(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def bytes_of(self, token: int) -> bytes:
        """One token's bytes."""
        if self._bytes is None:
            return self.piece(token).encode()
        return self._bytes[token] if token < len(self._bytes) else b""

    def token_id(self, text: str) -> int | None:
        """The id of a token that is written so."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found

    def detokenizer(self) -> Detokenizer:
        """For one sequence."""
        if self._bytes is not None:
            return _ByteDetokenizer(self._bytes, self._special)
        return _WindowDetokenizer(self)

    def _spelled(self, index: int) -> bytes:
        written = self._tokenizer.id_to_token(index)
        if written is None:
            return b""
        table = _byte_of_character()
        if all(character in table for character in written):
            return bytes(table[character] for character in written)
        return str(written).encode()  # an added token


class Detokenizer:
    """Text of one sequence, token by token."""

    def add(self, token: int) -> str:
        """The characters that are complete now."""
        raise NotImplementedError

    def finish(self) -> str:
        """What is left: nothing comes after it."""
        raise NotImplementedError


class _ByteDetokenizer(Detokenizer):
    def __init__(self, known: list[bytes], special: set[int]) -> None:
        self._known = known
        self._special = special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        if token in self._special or token >= len(self._known):
            return ""
        return self._decoder.decode(self._known[token])

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _WindowDetokenizer(Detokenizer):
    """For decoders that look at neighbours (spaces of SentencePiece): decodes from the last piece on."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._window: list[int] = []
        self._told = 0  # tokens at the window's begin whose text was given out

    def add(self, token: int) -> str:
        self._window.append(token)
        text = self._new_text()
        if not text or (text.endswith(_REPLACEMENT) and len(self._window) - self._told < _LONGEST_CHARACTER):
            return ""
        return self._give(text)

    def finish(self) -> str:
        return self._give(self._new_text())

    def _new_text(self) -> str:
        before = self._codec.decode(self._window[: self._told])
        return self._codec.decode(self._window)[len(before) :]

    def _give(self, text: str) -> str:
        self._window = self._window[self._told :]
        self._told = len(self._window)
        return text


class StopStrings:
    """Finds the first stop string in a text that comes in pieces; holds back what may be the beginning of one."""

    def __init__(self, strings: Sequence[str], *, include: bool) -> None:
        self._strings = strings
        self._include = include
        self._held = ""

    def add(self, text: str, *, armed: bool = True) -> tuple[str, bool]:
        """What may be shown of the text so far, and whether a stop string ended it; not before it is armed."""
        if not self._strings or not armed:
            return text, False
        held = self._held + text
        found = [(place, string) for string in self._strings if (place := held.find(string)) >= 0]
        if found:
            place, string = min(found, key=lambda each: (each[0], -len(each[1])))
            self._held = ""
            return held[: place + len(string) * self._include], True
        keep = max(_overlap(held, string) for string in self._strings)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def finish(self) -> str:
        """What was held back: no stop string came of it."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """Characters at the end of the text with which the string begins."""
    for length in range(min(len(string) - 1, len(text)), 0, -1):
        if text.endswith(string[:length]):
            return length
    return 0


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """GPT-2's spelling of bytes: printable ones as themselves, the others as characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}
