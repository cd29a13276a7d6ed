"""Words with tags, from CoNLL files, JSON lines or Parquet, as encoded examples. Imports no torch.

CoNLL: a word a line, its columns apart by blanks, the word first and the tag last; an empty line ends a sentence.
Tables: a list of words and a list of tags in each row.

Of each word, every part that punctuation sets apart has a tag ("U", ".", "S", "."): a text to be tagged later comes
without a list of its words. What is evaluated are words.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from modelyard_workloads.data.corpus import is_held_out
from modelyard_workloads.data.entities import as_bio, parts_of
from modelyard_workloads.data.labelled_text import HELD_OUT, TRAIN, ExampleWriter, named_parts
from modelyard_workloads.data.records import RowPolicy, Rows, text_lines
from modelyard_workloads.data.sources import Source, SourceFile
from modelyard_workloads.data.values import Column
from modelyard_workloads.data.wordpiece import FIRST, SEPARATOR, UNKNOWN, special_id
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.text import TokenClassificationParameters

LABELS = "labels.json"
NO_TARGET = -100
_CONLL = tuple(f"{name}{packed}" for name in (".conll", ".bio", ".iob", ".iob2", ".txt") for packed in ("", ".gz"))
_TABLES = (".jsonl", ".jsonl.gz", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Sentence:
    """Words and as many tags of the kinds B, I and O."""

    words: list[str]
    tags: list[str]
    place: str


class TaggedTexts:
    """The sentences of a source."""

    def __init__(self, source: Source, parameters: TokenClassificationParameters) -> None:
        self.files = source.select((*_CONLL, *_TABLES))
        self._parameters = parameters

    def texts(self) -> Iterator[str]:
        """The sentences to train on, for a tokenizer."""
        for sentence in self._part(held_out=False):
            yield " ".join(sentence.words)

    def write(self, tokenizer: Tokenizer, directory: Path) -> None:
        """Encode both parts. Raises DataError: no entity in the training data, nothing left to train on or to evaluate
        with, a type of entity that only the evaluation has.
        """
        kinds = sorted({t[2:] for s in self._part(held_out=False) for t in s.tags if t != "O"})
        if not kinds:
            raise DataError("dataset.uri: no sentence of the training data has an entity; all of its tags are O")
        labels = ["O", *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI")]
        for part, held_out in ((TRAIN, False), (HELD_OUT, True)):
            encoder = _Encoder(tokenizer, labels, self._parameters.sequence_length)
            for sentence in self._part(held_out=held_out):
                encoder.add(sentence)
            if not len(encoder.writer):
                doing = "evaluate with" if held_out else "train on"
                message = f"no sentence is left to {doing}; give more, or change evaluationFraction"
                raise DataError(f"dataset.uri: {message}")
            encoder.writer.write(directory, part)
        (directory / LABELS).write_text(json.dumps(labels), encoding="utf-8")

    def _part(self, *, held_out: bool) -> Iterator[Sentence]:
        train, evaluation = named_parts(self.files)
        if evaluation:
            yield from self._sentences(evaluation if held_out else train)
            return
        for sentence in self._sentences(train):
            if is_held_out(" ".join(sentence.words), self._parameters.evaluation_fraction) == held_out:
                yield sentence

    def _sentences(self, files: Sequence[SourceFile]) -> Iterator[Sentence]:
        policy = RowPolicy.of(self._parameters)
        for file in files:
            table = file.relative.lower().endswith(_TABLES)
            for words, tags, place in self._table(file, policy) if table else _conll(file, policy):
                problem = _problem(words, tags)
                if problem:
                    policy.bad(place, problem)
                elif words:
                    yield Sentence([str(word) for word in words], as_bio(tags), place)

    def _table(self, file: SourceFile, policy: RowPolicy) -> Iterator[tuple[list[str], list[str], str]]:
        words, tags = self._parameters.words_column, self._parameters.tags_column
        for row in Rows([file], [Column(words, list), Column(tags, list)], policy):
            yield row.values[words], row.values[tags], row.place


def _problem(words: Sequence[object], tags: Sequence[object]) -> str:
    if len(words) != len(tags):
        return f"has {len(words)} words and {len(tags)} tags"
    wrong = [tag for tag in tags if not isinstance(tag, str) or parts_of(tag) is None]
    if wrong:
        return f"{wrong[0]!r} is no tag; write O, or B-TYPE and I-TYPE (E, L, S and U are understood too)"
    return ""


def _conll(file: SourceFile, policy: RowPolicy) -> Iterator[tuple[list[str], list[str], str]]:
    words: list[str] = []
    tags: list[str] = []
    begins = 1
    for number, line in text_lines(file, policy):
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            if len(columns) == 1:
                policy.bad(f"{file.address}:{number}", f"has one column, {columns[0]!r}; expected a word and its tag")
                continue
            if parts_of(columns[-1]) is None:
                policy.bad(f"{file.address}:{number}", _problem(columns[:1], columns[-1:]))
                continue
            if not words:
                begins = number
            words.append(columns[0])
            tags.append(columns[-1])
        elif words:
            yield words, tags, f"{file.address}:{begins}"
            words, tags = [], []
    if words:
        yield words, tags, f"{file.address}:{begins}"


class _Encoder:
    """Sentences to rows; one that is too long becomes several, parted between entities where that is possible."""

    def __init__(self, tokenizer: Tokenizer, labels: Sequence[str], length: int) -> None:
        self.writer = ExampleWriter()
        self._tokenizer = tokenizer
        self._number = {label: number for number, label in enumerate(labels)}
        self._first, self._last = special_id(tokenizer, FIRST), special_id(tokenizer, SEPARATOR)
        self._unknown = special_id(tokenizer, UNKNOWN)
        self._room = length - 2

    def add(self, sentence: Sentence) -> None:
        """Encode and keep. Raises DataError for a type that the training data lacks."""
        unknown = next((tag for tag in sentence.tags if tag not in self._number), None)
        if unknown is not None:
            raise DataError(f"{sentence.place}: no sentence of the training data has an entity {unknown[2:]!r}")
        tokens: list[int] = []
        tags: list[int] = []
        heads: list[int] = []
        encodings = self._tokenizer.encode_batch(sentence.words, add_special_tokens=False)
        for encoding, tag in zip(encodings, sentence.tags, strict=True):
            ids, marks = self._word(encoding.ids, encoding.tokens, tag)
            size = len(tokens) + len(ids)
            soon = size > self._room - self._room // 8 and not tag.startswith("I")
            if tokens and (soon or size > self._room):
                self._keep(tokens, tags, heads)
                tokens, tags, heads = [], [], []
            tokens += ids
            tags += marks
            heads += [1] + [0] * (len(ids) - 1)
        if tokens:
            self._keep(tokens, tags, heads)

    def _word(self, ids: list[int], pieces: list[str], tag: str) -> tuple[list[int], list[int]]:
        """The tokens of a word and their tags; NO_TARGET where a token continues another one."""
        ids, pieces = (ids[: self._room], pieces[: self._room]) if ids else ([self._unknown], [UNKNOWN])
        following = self._number["I" + tag[1:] if tag != "O" else "O"]
        marks = [NO_TARGET if piece.startswith("##") else following for piece in pieces]
        return ids, [self._number[tag], *marks[1:]]

    def _keep(self, tokens: list[int], tags: list[int], heads: list[int]) -> None:
        self.writer.add(
            [self._first, *tokens, self._last],
            [0] * (len(tokens) + 2),
            tag=[NO_TARGET, *tags, NO_TARGET],
            head=[0, *heads, 0],
            counts=sum(tag != NO_TARGET for tag in tags),
        )
