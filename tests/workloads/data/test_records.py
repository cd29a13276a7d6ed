"""Rows of every format, the same from each, and the place of everything that is wrong."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from modelyard_workloads.data.records import SUFFIXES, RowPolicy, Rows
from modelyard_workloads.data.sources import open_source
from modelyard_workloads.data.values import Column
from modelyard_workloads.exits import DataError

COLUMNS = [Column("text"), Column("label", int), Column("weight", float, optional=True)]
VALUES: list[dict[str, Any]] = [
    {"text": "plain", "label": 1, "weight": 0.5},
    {"text": 'with "quotes", commas\nand two lines', "label": -2, "weight": None},
    {"text": "ünïcode \u2028 too", "label": 3, "weight": 1e-3},
]

# With no time in it: it is part of a test's name, which all processes of a run must find alike.
CUT_OFF = gzip.compress(b'{"text": "x", "label": 1}\n' * 99, mtime=0)[:-20]


def rows(path: Path, columns: Sequence[Column] = COLUMNS, policy: RowPolicy | None = None) -> Rows:
    return Rows(open_source(path.as_uri()).select(SUFFIXES), columns, policy or RowPolicy())


def csv_text(separator: str) -> str:
    def cell(value: Any) -> str:
        return "" if value is None else '"' + str(value).replace('"', '""') + '"'

    lines = [["text", "unused", "label", "weight"]]
    lines += [[cell(v["text"]), "-", str(v["label"]), cell(v["weight"])] for v in VALUES]
    return "".join(separator.join(line) + "\r\n" for line in lines)


def write(path: Path) -> None:
    name = path.name
    if name.endswith(".parquet"):
        table = pyarrow.Table.from_pylist([{**value, "unused": 0} for value in VALUES])
        pyarrow.parquet.write_table(table, path, row_group_size=2)
        return
    if ".json" in name:
        content = "".join(json.dumps(value) + "\n\n" for value in VALUES).encode()
    else:
        content = ("\ufeff" + csv_text("\t" if ".tsv" in name else ",")).encode()
    if name.endswith(".gz"):
        half = len(content) // 2  # two members, as `cat a.gz b.gz` makes
        content = gzip.compress(content[:half]) + gzip.compress(content[half:])
    elif name.endswith(".zst"):
        content = pyarrow.compress(content, "zstd", asbytes=True)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz", "a.tsv.zst", "a.jsonl.zst"],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    read = list(rows(tmp_path / name))
    assert [row.values for row in read] == VALUES
    address = (tmp_path / name).as_uri()
    if name.endswith("parquet"):
        assert [row.place.removeprefix(address) for row in read] == [
            ", row group 1, row 1",
            ", row group 1, row 2",
            ", row group 2, row 1",
        ]
    else:
        lines = {"csv": (2, 3, 5), "tsv": (2, 3, 5), "jsonl": (1, 3, 5)}[name.split(".")[1]]
        assert [row.place for row in read] == [f"{address}:{line}" for line in lines]


def test_plain_text_is_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n\nthree")
    assert [row.values["text"] for row in rows(tmp_path / "a.txt", [Column("text")])] == ["one", "", "three"]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"text,label\nx,1\ny\n", r"a.csv:3: has 1 fields, expected 2"),
        ("a.csv", b"text,label\nx,1\ny,one\n", r"a.csv:3: column 'label' must be a whole number, got \"one\""),
        ("a.csv", b"text,label\nx,1.5\n", r"a.csv:2: column 'label' must be a whole number"),
        ("a.csv", b'text,label\n"x"y,1\n', r"a.csv:2: "),
        ("a.csv", b'text,label\n"x,1\n', r"a.csv:2: unexpected end of data"),
        ("a.csv", b"text,label\n\xff,1\n", r"a.csv:2: is not UTF-8"),
        ("a.csv", b"text,label\nx,\n", r"a.csv:2: column 'label' has no value"),
        ("a.csv", b"text,label,weight\nx,1,nan\n", r"a.csv:2: column 'weight' must be a finite number"),
        ("a.csv", b"", r"a.csv: is empty; the first line must name the columns"),
        ("a.csv", b"text,label,text\n", r"a.csv:1: the column 'text' is named twice"),
        ("a.csv", b"texts,label\n", r"a.csv: has no column 'text'; it has 'texts', 'label'; did you mean 'texts'\?"),
        ("a.jsonl", b'{"text": "x", "label": 1}\n{"text": }\n', r"a.jsonl:2: is not JSON"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1: is a JSON list, expected an object"),
        ("a.jsonl", b'{"text": {"a": 1}, "label": 1}\n', r"a.jsonl:1: column 'text' must be text, got"),
        ("a.jsonl", b'{"text": "x"}\n', r"a.jsonl:1: column 'label' has no value"),
        ("a.jsonl", b'{"text": "x", "label": 1, "weight": NaN}\n', r"a.jsonl:1: is not JSON: NaN"),
        ("a.jsonl.gz", CUT_OFF, r"a.jsonl.gz: damaged after line"),
        ("a.jsonl.gz", b"this is not gzip", r"a.jsonl.gz: damaged after line 0"),
        ("a.jsonl.zst", b"this is not zstandard", r"a.jsonl.zst"),
        ("a.parquet", b"this is no Parquet", r"a.parquet: is no Parquet file"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        list(rows(tmp_path / name))


def test_a_parquet_row_is_named_by_its_row_group(tmp_path: Path) -> None:
    table = pyarrow.table({"text": ["a", "b", "c"], "label": ["1", "2", "?"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    with pytest.raises(DataError, match=r"a.parquet, row group 2, row 1: column 'label' must be a whole number"):
        list(rows(tmp_path / "a.parquet"))


def test_bad_rows_are_skipped_up_to_a_limit_over_all_files(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text('text,label\nx,1\ny\nz,?\n"bad" one,1\nw,2\n')
    policy = RowPolicy("skip", 6)
    assert [row.values["text"] for row in rows(tmp_path, policy=policy)] == ["x", "w", "x", "w"]
    assert policy.report()["skippedRows"] == 6
    assert "a.csv:3: has 1 fields" in policy.report()["examples"][0]
    with pytest.raises(DataError, match=r"more than maxBadRows \(5\) rows cannot be read, the first ones: file://"):
        list(rows(tmp_path, policy=RowPolicy("skip", 5)))


def test_memory_is_bounded_by_a_chunk(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "some text,1\n" * 20_000)
    assert [len(chunk) for chunk in rows(tmp_path).chunks()] == [8192, 8192, 3616]
