"""Token files: documents as numbers, made once, mapped into memory.

<directory>/tokenizer.json
<directory>/{train,held_out}.tokens      all tokens, uint16 where the vocabulary allows, else uint32
<directory>/{train,held_out}.sentences   where sentences begin, int64, and at last the number of tokens
<directory>/{train,held_out}.documents   where documents begin (in tokens), int64, and at last the number of tokens
<directory>/tokens.json                  the type of the tokens
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from modelyard_workloads.data.documents import sentences

_KIND = "tokens.json"
_DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """The tokens of one part of a corpus."""

    tokens: NDArray[Any]  # (N,) uint16 or uint32, mapped
    sentences: NDArray[np.int64]  # (S + 1,)
    documents: NDArray[np.int64]  # (D + 1,)

    @property
    def document_count(self) -> int:
        """D"""
        return len(self.documents) - 1


def write_tokens(tokenizer: Tokenizer, documents: Iterable[str], directory: Path, part: str) -> int:
    """Write the token file of a part ("train", "held_out"). Returns the number of documents that have tokens. Raises
    OSError.
    """
    kind = np.dtype("<u2") if tokenizer.get_vocab_size() <= 1 << 16 else np.dtype("<u4")
    (directory / _KIND).write_text(json.dumps({"dtype": kind.str}))
    starts_of_sentences, starts_of_documents, position = array("q", [0]), array("q", [0]), 0
    with (directory / f"{part}.tokens").open("wb") as file:
        for encoded in _encoded(tokenizer, documents):
            for ids in encoded:
                file.write(np.array(ids, dtype=kind).tobytes())
                position += len(ids)
                starts_of_sentences.append(position)
            starts_of_documents.append(position)
    for name, starts in (("sentences", starts_of_sentences), ("documents", starts_of_documents)):
        (directory / f"{part}.{name}").write_bytes(np.asarray(starts).astype("<i8").tobytes())
    return len(starts_of_documents) - 1


def _encoded(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[list[Sequence[int]]]:
    """The token ids of the sentences of each document that has any."""
    stream = iter(documents)
    while group := [sentences(text) for text in islice(stream, _DOCUMENTS_AT_ONCE)]:
        flat = tokenizer.encode_batch_fast([s for part in group for s in part], add_special_tokens=False)
        position = 0
        for part in group:
            ids: list[Sequence[int]] = [e.ids for e in flat[position : position + len(part)] if e.ids]
            position += len(part)
            if ids:
                yield ids


def open_tokens(directory: Path, part: str) -> TokenFile:
    """Map the token file of a part."""
    kind = np.dtype(json.loads((directory / _KIND).read_bytes())["dtype"])

    def starts(name: str) -> NDArray[np.int64]:
        return np.fromfile(directory / f"{part}.{name}", dtype="<i8")

    path = directory / f"{part}.tokens"
    empty = path.stat().st_size == 0
    tokens = np.empty(0, kind) if empty else np.memmap(path, dtype=kind, mode="r")
    return TokenFile(tokens=tokens, sentences=starts("sentences"), documents=starts("documents"))
