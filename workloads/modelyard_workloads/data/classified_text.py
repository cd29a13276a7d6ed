"""Texts with a class each, from CSV, JSON lines or Parquet, as encoded examples. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from modelyard_workloads.data.corpus import is_held_out
from modelyard_workloads.data.labelled_text import HELD_OUT, TRAIN, ExampleWriter, named_parts
from modelyard_workloads.data.records import TABLE_SUFFIXES, Row, RowPolicy, Rows
from modelyard_workloads.data.sources import Source, SourceFile
from modelyard_workloads.data.values import Column
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.text import TextClassificationParameters

LABELS = "labels.json"
_ROWS_AT_ONCE = 1024


class ClassifiedTexts:
    """The rows of a source."""

    def __init__(self, source: Source, parameters: TextClassificationParameters) -> None:
        self.files = source.select(TABLE_SUFFIXES)
        self._parameters = parameters

    def texts(self) -> Iterator[str]:
        """The texts to train on, for a tokenizer."""
        for row in self._part(held_out=False):
            yield from self._of(row)

    def write(self, tokenizer: Tokenizer, directory: Path) -> None:
        """Encode both parts. Raises DataError: fewer than two classes, nothing left to train on or to evaluate with, a
        class that only the evaluation has.
        """
        parameters = self._parameters
        cut = Tokenizer.from_str(tokenizer.to_str())
        cut.enable_truncation(parameters.sequence_length)
        names: dict[str, int] = {}
        for part, held_out in ((TRAIN, False), (HELD_OUT, True)):
            writer = ExampleWriter()
            for rows in _grouped(self._part(held_out=held_out)):
                texts = [self._of(row) for row in rows]
                encodings = cut.encode_batch([t if len(t) == 2 else t[0] for t in texts])
                for row, encoding in zip(rows, encodings, strict=True):
                    label = str(row.values[parameters.label_column])
                    if held_out and label not in names:
                        raise DataError(f"{row.place}: the class {label!r} is in no row of the training data")
                    writer.add(encoding.ids, encoding.type_ids, label=names.setdefault(label, len(names)))
            if not len(writer):
                doing = "evaluate with" if held_out else "train on"
                raise DataError(f"dataset.uri: no row is left to {doing}; give more rows, or change evaluationFraction")
            writer.write(directory, part)
        if len(names) < 2:
            column, name = parameters.label_column, next(iter(names))
            raise DataError(f"dataset.uri: the column {column!r} has one class, {name!r}; at least two are needed")
        (directory / LABELS).write_text(json.dumps(list(names)), encoding="utf-8")

    def _of(self, row: Row) -> tuple[str, ...]:
        names = (self._parameters.text_column, self._parameters.second_text_column)
        return tuple(str(row.values[name]) for name in names if name)

    def _part(self, *, held_out: bool) -> Iterator[Row]:
        train, evaluation = named_parts(self.files)
        if evaluation:
            yield from self._rows(evaluation if held_out else train)
            return
        for row in self._rows(train):
            if is_held_out(" ".join(self._of(row)), self._parameters.evaluation_fraction) == held_out:
                yield row

    def _rows(self, files: Sequence[SourceFile]) -> Iterator[Row]:
        parameters = self._parameters
        names = [parameters.text_column, parameters.second_text_column, parameters.label_column]
        policy = RowPolicy.of(parameters)
        for row in Rows(files, [Column(name) for name in names if name], policy):
            if row.values[parameters.text_column].strip() and row.values[parameters.label_column].strip():
                yield row
            else:
                policy.bad(row.place, f"{parameters.text_column} and {parameters.label_column} must not be empty")


def _grouped(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS_AT_ONCE:
            yield group
            group = []
    if group:
        yield group
