"""Documents to learn a language from: text files, and a column of JSON lines, CSV or Parquet.

A row of a table is a document. A text file is cut into documents of some 4,000 characters at empty lines (at any line
where there are none): so a part of a single long text can be held out. Which documents are held out depends on their
content alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from modelyard_workloads.data.corpus import is_held_out
from modelyard_workloads.data.records import SUFFIXES, TEXT_SUFFIXES, RowPolicy, Rows, text_lines
from modelyard_workloads.data.sources import Source, SourceFile
from modelyard_workloads.data.values import Column
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.rows import RowParameters

_DOCUMENT_CHARACTERS = 4_000
# A sentence ends with a period and the like before a word that begins one, or with an empty line.
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+(?=[A-Z0-9\"'(\[`*>-])|\n\s*\n")


class Documents:
    """The documents of a source, in their order; can be read again and again."""

    def __init__(self, source: Source, column: str, parameters: RowParameters) -> None:
        """Raises DataError when the source has no file of a known kind."""
        self._files = source.select(SUFFIXES)
        self._column = column
        self._parameters = parameters

    def __iter__(self) -> Iterator[str]:
        policy = RowPolicy.of(self._parameters)
        for file in self._files:
            if file.relative.lower().endswith(TEXT_SUFFIXES):
                yield from _cut(file, policy)
            else:
                for row in Rows([file], [Column(self._column)], policy):
                    text = str(row.values[self._column])
                    if text.strip():
                        yield text

    def part(self, fraction: float, *, held_out: bool) -> Iterator[str]:
        """The documents of one part; about `fraction` of all are held out."""
        return (text for text in self if is_held_out(text, fraction) == held_out)

    def identity(self) -> str:
        """SHA-256 (hex) of what is read: the content of files on this machine, the version that a store names else."""
        rows = self._parameters
        digest = hashlib.sha256(f"{self._column} {rows.on_bad_row} {rows.max_bad_rows}".encode())
        for file in self._files:
            digest.update(f"\n{file.relative} {file.size} ".encode())
            if not file.is_local:
                digest.update(f"{file.address} {file.version}".encode())
                continue
            with file.open() as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
        return digest.hexdigest()


def _cut(file: SourceFile, policy: RowPolicy) -> Iterator[str]:
    lines: list[str] = []
    size = 0
    for _, line in text_lines(file, policy):
        at_gap = not line.strip() or size > 2 * _DOCUMENT_CHARACTERS
        if size > _DOCUMENT_CHARACTERS and at_gap:
            yield "\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line)
    if any(line.strip() for line in lines):
        yield "\n".join(lines)


def sentences(text: str) -> list[str]:
    """The sentences of a document, none of them empty."""
    return [part for part in (p.strip() for p in _SENTENCE_END.split(text)) if part]


def check_parts(train: int, held_out: int, address: str) -> None:
    """Raise DataError unless there are documents to train on and to evaluate with."""
    if train and held_out:
        return
    part = "train on" if not train else "evaluate with"
    raise DataError(
        f"dataset.uri: {address} has {train + held_out} documents, and by evaluationFraction none of them is left to"
        f" {part}; give more text, or change evaluationFraction"
    )
