"""What a language model reads: documents, or conversations of which it learns the answers.

A folder named `validation`, `valid`, `val`, `test` or `eval` holds what is kept for evaluation. Where there is none, a
share of the documents is, chosen by their names and places alone (see `corpus.is_held_out`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from modelyard_workloads.data.chat import Message, check_messages
from modelyard_workloads.data.corpus import is_held_out, python_documents
from modelyard_workloads.data.records import SUFFIXES, TABLE_SUFFIXES, TEXT_SUFFIXES, RowPolicy, Rows, text_lines
from modelyard_workloads.data.sources import SourceFile, open_source
from modelyard_workloads.data.values import Column
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.causal_lm import CausalLmParameters

PYTHON_DOCS = "example://python-docs"
_HELD_OUT_FOLDERS = frozenset({"validation", "valid", "val", "test", "eval"})
_LONG_BLOCK, _SHORT_BLOCK = 1 << 20, 1 << 16  # characters


@dataclass(frozen=True, slots=True)
class Text:
    """A document, or a part of a long one; `ends` says whether the document is over with it."""

    text: str
    ends: bool
    held_out: bool


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages; what the assistant says in them is to be learned."""

    messages: list[Message]
    place: str
    held_out: bool


class Documents:
    """The documents behind an address, in an order that is always the same; can be read again and again."""

    def __init__(self, uri: str, parameters: CausalLmParameters) -> None:
        """Lists the files. Raises DataError."""
        self._parameters = parameters
        self._uri = uri
        self.policy = RowPolicy.of(parameters)
        self._files: tuple[SourceFile, ...] = ()
        if uri == PYTHON_DOCS:
            if parameters.data_format != "text":
                raise DataError(f"dataset.uri: {PYTHON_DOCS} has documents alone; write dataFormat: text")
            return
        suffixes = SUFFIXES if parameters.data_format == "text" else TABLE_SUFFIXES
        self._files = open_source(uri).select(suffixes)
        self._folders = any(_in_held_out_folder(file) for file in self._files)

    def fingerprint(self) -> str:
        """Another one when the documents are others: of their content where it is on this machine, else of the
        versions that the store tells.
        """
        digest = hashlib.sha256()
        if not self._files:
            for document in python_documents():
                digest.update(f"{document.name}\0{document.text}\0".encode())
        for file in self._files:
            digest.update(f"{file.relative}\0{file.size}\0".encode())
            if file.is_local:
                with Path(file.path).open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            else:
                digest.update(f"{file.address}\0{file.version}".encode())
        return digest.hexdigest()

    def texts(self) -> Iterator[Text]:
        """For `dataFormat: text`. A file of plain text is one document; a row of a table is one."""
        fraction = self._parameters.evaluation_fraction
        if not self._files:
            for document in python_documents():
                yield Text(document.text, True, is_held_out(document.name, fraction))
            return
        column = self._parameters.text_column
        for file in self._files:
            if file.relative.lower().endswith(TEXT_SUFFIXES):
                yield from self._plain(file)
                continue
            for number, row in enumerate(Rows([file], [Column(column)], self.policy)):
                if row.values[column]:
                    yield Text(row.values[column], True, self._held_out(file, number))

    def conversations(self) -> Iterator[Conversation]:
        """For `dataFormat: pairs` and `messages`."""
        pairs = self._parameters.data_format == "pairs"
        prompt, answer = self._parameters.prompt_column, self._parameters.answer_column
        messages = self._parameters.messages_column
        columns = [Column(prompt), Column(answer)] if pairs else [Column(messages, object)]
        for file in self._files:
            for number, row in enumerate(Rows([file], columns, self.policy)):
                try:
                    if pairs:
                        found = _pair(row.values[prompt], row.values[answer])
                    else:
                        value = row.values[messages]
                        found = check_messages(json.loads(value) if isinstance(value, str) else value)
                except ValueError as error:
                    column = f"{prompt}, {answer}" if pairs else messages
                    self.policy.bad(row.place, f"column {column}: {error}")
                    continue
                yield Conversation(found, row.place, self._held_out(file, number))

    def _held_out(self, file: SourceFile, number: int) -> bool:
        if self._folders:
            return _in_held_out_folder(file)
        return is_held_out(f"{file.relative}:{number}", self._parameters.evaluation_fraction)

    def _plain(self, file: SourceFile) -> Iterator[Text]:
        """A file in parts, cut at line ends. Where no folder is held out, some parts are: then each part is a document,
        and the parts are small.
        """
        parts = _blocks(file, self.policy, _LONG_BLOCK if self._folders else _SHORT_BLOCK)
        for number, (text, last) in enumerate(parts):
            yield Text(text, last or not self._folders, self._held_out(file, number))


def _blocks(file: SourceFile, policy: RowPolicy, size: int) -> Iterator[tuple[str, bool]]:
    """(text of about `size` characters, is it the last), cut at line ends."""
    lines: list[str] = []
    length = 0
    for _, line in text_lines(file, policy):
        if length >= size:
            yield "\n".join(lines) + "\n", False
            lines, length = [], 0
        lines.append(line)
        length += len(line) + 1
    if lines:
        yield "\n".join(lines) + "\n", True


def _pair(prompt: str, answer: str) -> list[Message]:
    if not answer.strip():
        raise ValueError("the answer is empty, so there is nothing to learn")
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _in_held_out_folder(file: SourceFile) -> bool:
    path = PurePosixPath(file.relative.lower())
    return not _HELD_OUT_FOLDERS.isdisjoint(path.parts[:-1]) or path.name.split(".")[0] in _HELD_OUT_FOLDERS
