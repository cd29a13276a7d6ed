"""Rows of CSV, TSV, JSON lines, Parquet and plain text files, in their order, with the place of each.

    rows = Rows(source.select(SUFFIXES), [Column("text", str), Column("label", int)], RowPolicy("skip", 100))
    for chunk in rows.chunks(): chunk.columns["label"]     # thousands of rows at once, as lists
    for row in rows: row.values["text"], row.place         # one by one

Text files may be compressed (.gz, .zst). A CSV file begins with the names of its columns; a line of JSON is an object;
a line of a plain text file is a row with the one column `text`. No more than one chunk is in memory. The same files
give the same rows on every rank; who reads which is the order module's business.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, BinaryIO, Literal

from modelyard_workloads.data.failures import blamed
from modelyard_workloads.data.sources import SourceFile
from modelyard_workloads.data.values import CONVERT, Column, convert_one_by_one
from modelyard_workloads.exits import DataError
from modelyard_workloads.heartbeat import moved
from modelyard_workloads.parameters.rows import RowParameters

_TEXT = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text", ".text": "text"}
_PACKED = ("", ".gz", ".zst")
TABLE_SUFFIXES = (*(s + p for s in (".csv", ".tsv", ".jsonl", ".ndjson") for p in _PACKED), ".parquet")
TEXT_SUFFIXES = tuple(s + p for s in (".txt", ".text") for p in _PACKED)
SUFFIXES = (*TABLE_SUFFIXES, *TEXT_SUFFIXES)

CHUNK_ROWS = 8192
MAX_LINE_BYTES = 64 << 20


@dataclass
class RowPolicy:
    """What happens to rows that cannot be read, and the count of those left out; one for all files of a data set."""

    on_bad_row: Literal["fail", "skip"] = "fail"
    max_bad_rows: int = 100
    skipped: int = 0
    examples: list[str] = field(default_factory=list)  # the first few, with their places

    @classmethod
    def of(cls, parameters: RowParameters) -> RowPolicy:
        """As the parameters say."""
        return cls(parameters.on_bad_row, parameters.max_bad_rows)

    def bad(self, place: str, problem: str) -> None:
        """A row is bad. Raises DataError when that is not allowed, or not any more."""
        message = f"{place}: {problem}"
        if self.on_bad_row == "fail":
            raise DataError(f"{message}; correct it, or set onBadRow: skip to leave such rows out")
        self.skipped += 1
        if len(self.examples) < 5:
            self.examples.append(message)
        if self.skipped > self.max_bad_rows:
            first = "; ".join(self.examples)
            raise DataError(f"more than maxBadRows ({self.max_bad_rows}) rows cannot be read, the first ones: {first}")

    def report(self) -> dict[str, Any]:
        """What to say about it in the log: the number and some of the reasons."""
        return {"skippedRows": self.skipped, "examples": self.examples}


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its values by column, and where it is, for error messages."""

    values: dict[str, Any]
    place: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Rows as columns: lists of the same length."""

    columns: dict[str, list[Any]]
    numbers: list[int]  # line of each row, or its number in the Parquet row group
    where: Callable[[int], str] = field(repr=False)  # number -> place

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, index: int) -> str:
        """Where a row of this chunk is: `file:line`, or file, row group and row."""
        return self.where(self.numbers[index])


_Raw = tuple[int, list[Any]]  # number and values in the order of the wanted columns


class Rows:
    """The rows of some files; can be read again and again."""

    def __init__(self, files: Sequence[SourceFile], columns: Sequence[Column], policy: RowPolicy) -> None:
        self._files = files
        self._columns = list(columns)
        self._policy = policy

    def __iter__(self) -> Iterator[Row]:
        names = [column.name for column in self._columns]
        for chunk in self.chunks():
            values = zip(*(chunk.columns[name] for name in names), strict=True)
            for index, row in enumerate(values):
                moved()
                yield Row(dict(zip(names, row, strict=True)), chunk.place(index))

    def chunks(self) -> Iterator[Chunk]:
        """All rows, at most CHUNK_ROWS together. Raises DataError with the place of what cannot be read."""
        for file in self._files:
            parts = self._parquet(file) if file.relative.lower().endswith(".parquet") else self._lines(file)
            for chunk in parts:
                moved()
                converted = self._convert(chunk)
                if len(converted):
                    yield converted

    def _lines(self, file: SourceFile) -> Iterator[Chunk]:
        """Raw chunks of a text file."""

        def where(line: int) -> str:
            return f"{file.address}:{line}"

        readers = {"csv": self._delimited, "tsv": self._delimited, "jsonl": self._json, "text": self._text}
        kind = text_kind(file)
        names = [column.name for column in self._columns]
        for rows in _grouped(readers[kind](file, kind)):
            values = [list(column) for column in zip(*(row for _, row in rows), strict=True)]
            columns = dict(zip(names, values, strict=True))
            yield Chunk(columns=columns, numbers=[line for line, _ in rows], where=where)

    def _delimited(self, file: SourceFile, kind: str) -> Iterator[_Raw]:
        reader = _CsvLines(file, kind, self._policy)
        header = reader.header()
        places = self._positions(header, file)
        for line, row in reader.rows(len(header)):
            yield line, [None if place is None else row[place] for place in places]

    def _positions(self, header: Sequence[str], file: SourceFile) -> list[int | None]:
        """Where each wanted column is. Raises DataError for one that is not there."""
        missing = [c.name for c in self._columns if c.name not in header and not c.optional]
        if missing:
            near = [match for name in missing for match in get_close_matches(name, header, n=1)]
            hint = f"; did you mean {' and '.join(map(repr, near))}?" if near else ""
            names = ", ".join(map(repr, missing))
            raise DataError(f"{file.address}: has no column {names}; it has {', '.join(map(repr, header))}{hint}")
        return [list(header).index(c.name) if c.name in header else None for c in self._columns]

    def _json(self, file: SourceFile, _kind: str) -> Iterator[_Raw]:
        names = [column.name for column in self._columns]
        for number, line in text_lines(file, self._policy):
            if not line.strip():
                continue
            try:
                value = json.loads(line, parse_constant=_no_constant)
            except (ValueError, RecursionError) as error:
                self._policy.bad(f"{file.address}:{number}", f"is not JSON: {error}")
                continue
            if not isinstance(value, dict):
                self._policy.bad(f"{file.address}:{number}", f"is a JSON {type(value).__name__}, expected an object")
                continue
            yield number, [value.get(name) for name in names]

    def _text(self, file: SourceFile, _kind: str) -> Iterator[_Raw]:
        self._positions(["text"], file)
        places = [column.name == "text" for column in self._columns]
        for number, line in text_lines(file, self._policy):
            yield number, [line if wanted else None for wanted in places]

    def _parquet(self, file: SourceFile) -> Iterator[Chunk]:
        from modelyard_workloads.data.parquet import read_row_groups

        for group, header, batches in read_row_groups(file, [column.name for column in self._columns]):
            self._positions(header, file)
            first = 1

            def where(row: int, group: int = group) -> str:
                return f"{file.address}, row group {group}, row {row}"

            for batch in batches:
                count = batch.num_rows
                columns = {
                    c.name: batch.column(c.name).to_pylist() if c.name in header else [None] * count
                    for c in self._columns
                }
                yield Chunk(columns=columns, numbers=list(range(first, first + count)), where=where)
                first += count

    def _convert(self, chunk: Chunk) -> Chunk:
        """Typed values; bad rows are left out or raise."""
        columns: dict[str, list[Any]] = {}
        bad: dict[int, str] = {}
        for column in self._columns:
            values = chunk.columns[column.name]
            convert = CONVERT[column.kind]
            try:
                columns[column.name] = [None if v is None else convert(v) for v in values]
                doubtful = not column.optional and None in columns[column.name]
            except (ValueError, TypeError, OverflowError):
                doubtful = True
            if doubtful:
                columns[column.name] = convert_one_by_one(column, values, bad)
        if not bad:
            return Chunk(columns=columns, numbers=chunk.numbers, where=chunk.where)
        for index in sorted(bad):
            self._policy.bad(chunk.place(index), bad[index])
        good = [index for index in range(len(chunk)) if index not in bad]
        return Chunk(
            columns={name: [values[index] for index in good] for name, values in columns.items()},
            numbers=[chunk.numbers[index] for index in good],
            where=chunk.where,
        )


def text_kind(file: SourceFile) -> str:
    """csv, tsv, jsonl or text. Raises DataError for another suffix."""
    name = file.relative.lower().removesuffix(".gz").removesuffix(".zst")
    for suffix, kind in _TEXT.items():
        if name.endswith(suffix):
            return kind
    raise DataError(f"{file.address}: what kind of file this is cannot be seen; known are {', '.join(SUFFIXES)}")


def text_lines(file: SourceFile, policy: RowPolicy) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a UTF-8 text file, decompressed where its name says so."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(_decompressed(file, stack))
        number = 0
        while True:
            with blamed(file.subject, file.address):
                try:
                    line = stream.readline(MAX_LINE_BYTES + 1)
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise DataError(f"{file.address}: damaged after line {number}: {error}") from None
            if not line:
                return
            number += 1
            if len(line) > MAX_LINE_BYTES:
                limit = MAX_LINE_BYTES >> 20
                raise DataError(f"{file.address}:{number}: longer than {limit} MiB; is this a text file?")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                policy.bad(f"{file.address}:{number}", f"is not UTF-8: {error.reason} at byte {error.start}")
                continue
            yield number, text.rstrip("\r\n")


def _decompressed(file: SourceFile, stack: contextlib.ExitStack) -> BinaryIO:
    raw = stack.enter_context(file.open())
    name = file.relative.lower()
    if name.endswith(".gz"):
        return gzip.open(raw, "rb")  # type: ignore[return-value]
    if name.endswith(".zst"):
        from modelyard_workloads.data.parquet import open_zstandard

        return open_zstandard(raw)
    return raw


class _CsvLines:
    """A file of delimited values: its header and its rows with their line numbers."""

    def __init__(self, file: SourceFile, kind: str, policy: RowPolicy) -> None:
        csv.field_size_limit(MAX_LINE_BYTES)
        self._file = file
        self._policy = policy
        self._line = 0
        lines = (line + "\n" for line in self._counted())
        self._reader = csv.reader(lines, delimiter="\t" if kind == "tsv" else ",", strict=True)

    def _counted(self) -> Iterator[str]:
        for number, line in text_lines(self._file, self._policy):
            self._line = number
            yield line

    def header(self) -> list[str]:
        """The column names. Raises DataError when there are none, or one twice."""
        with self._syntax_errors_are_fatal():
            header = next(self._reader, None)
        if not header or not any(header):
            raise DataError(f"{self._file.address}: is empty; the first line must name the columns")
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise DataError(f"{self._file.address}:1: the column {', '.join(map(repr, twice))} is named twice")
        return header

    @contextlib.contextmanager
    def _syntax_errors_are_fatal(self) -> Iterator[None]:
        try:
            yield
        except csv.Error as error:
            raise DataError(f"{self._file.address}:{self._line or 1}: {error}") from None

    def rows(self, width: int) -> Iterator[_Raw]:
        """Rows with exactly `width` fields; a row's number is the line where it begins."""
        while True:
            begins = self._line + 1
            try:
                row = next(self._reader, None)
            except csv.Error as error:
                self._policy.bad(f"{self._file.address}:{begins}", str(error))
                continue
            if row is None:
                return
            if not row:  # an empty line
                continue
            if len(row) != width:
                self._policy.bad(f"{self._file.address}:{begins}", f"has {len(row)} fields, expected {width}")
                continue
            yield begins, row


def _grouped(rows: Iterable[_Raw]) -> Iterator[list[_Raw]]:
    group: list[_Raw] = []
    for row in rows:
        group.append(row)
        if len(group) == CHUNK_ROWS:
            yield group
            group = []
    if group:
        yield group


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")
