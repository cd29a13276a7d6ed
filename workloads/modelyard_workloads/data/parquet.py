"""Parquet files one row group at a time, and what else pyarrow reads for us."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from modelyard_workloads.data.failures import blamed
from modelyard_workloads.data.sources import SourceFile
from modelyard_workloads.exits import DataError

BATCH_ROWS = 8192


def open_parquet(file: SourceFile) -> Any:
    """The pyarrow ParquetFile; remote files are fetched to the local cache first. Raises DataError for another
    content.
    """
    import pyarrow
    from pyarrow import parquet

    path = file.local()
    with blamed(file.subject, file.address):
        try:
            return parquet.ParquetFile(path)
        except pyarrow.ArrowException as error:
            raise DataError(f"{file.address}: is no Parquet file: {error}") from None


def read_row_groups(file: SourceFile, wanted: Sequence[str]) -> Iterator[tuple[int, list[str], Iterator[Any]]]:
    """(number of the row group from 1, the file's column names, record batches of the wanted columns that exist).

    Raises DataError for a damaged row group.
    """
    import pyarrow

    with contextlib.closing(open_parquet(file)) as opened:
        header = list(opened.schema_arrow.names)
        columns = [name for name in wanted if name in header]
        for group in range(opened.num_row_groups):

            def batches(group: int = group) -> Iterator[Any]:
                try:
                    yield from opened.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)
                except (pyarrow.ArrowException, OSError) as error:
                    raise DataError(f"{file.address}, row group {group + 1}: damaged: {error}") from None

            yield group + 1, header, batches()


def open_zstandard(stream: BinaryIO) -> BinaryIO:
    """The decompressed bytes of a Zstandard stream."""
    import io

    import pyarrow

    packed = pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, mode="r"), "zstd")
    return io.BufferedReader(cast(Any, packed), 1 << 16)
