"""Text and tokenizers of full size for speed alone: made in a second, no training of a tokenizer.

Tokens are as frequent as in a language (Zipf's law): how often the commonest occur decides what it costs to add up the
gradients of the embeddings.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_CHARACTERS = 20_000  # of the unified ideographs, three bytes each
_WORDS = 30_000


def byte_pairs(directory: Path, merges: int = 50_000) -> str:
    """A tokenizer as large as GPT-2's: a token for each byte, for pairs of bytes, and one that ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    common = sorted(alphabet, key=lambda letter: letter.isascii())  # bytes of the ideographs first
    pairs = [(one, two) for one in common for two in common][:merges]
    tokens = ["<|endoftext|>", *alphabet, *(one + two for one, two in pairs)]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[:1])
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory.resolve().as_uri()


def ideographs(path: Path, characters: int) -> str:
    """A text file without words or sentences."""
    draw = np.random.default_rng(0)
    known = np.array([chr(0x4E00 + number) for number in range(_CHARACTERS)])
    draw.shuffle(known)
    chosen = known[_ranks(draw, characters, _CHARACTERS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join("".join(part) for part in np.array_split(chosen, max(1, characters // 4000))))
    return path.resolve().as_uri()


def words(path: Path) -> str:
    """A vocabulary of whole words, as large as BERT's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *map(_word, range(_WORDS))]))
    return path.resolve().as_uri()


def documents(path: Path, count: int, longest: int) -> str:
    """Documents of 16 to `longest` tokens, each length as likely as any other, in sentences of about 20."""
    draw = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for length in draw.integers(16, longest + 1, size=count):
            ranks = enumerate(_ranks(draw, length, _WORDS).tolist())
            text = " ".join("." if place % 20 == 19 else _word(rank) for place, rank in ranks)
            file.write(json.dumps({"text": text.replace(" . w", " . W")}) + "\n")
    return path.resolve().as_uri()


def _ranks(draw: np.random.Generator, count: int, size: int) -> NDArray[np.int64]:
    shares = 1 / (np.arange(size) + 3.0)
    return np.searchsorted(np.cumsum(shares / shares.sum()), draw.random(count) * 0.999)


def _word(number: int) -> str:
    return f"w{number:05d}"
