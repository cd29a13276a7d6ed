"""Encoded images and their labels from folders, Parquet files and WebDataset tar files, always in the same order.

    <root>/<class>/*.png                                     one folder for each class
    *.parquet    a column of bytes, or of {bytes, path} as Hugging Face writes them, and a column of labels
    *.tar        <key>.jpg beside <key>.cls or <key>.json with a `label` (https://github.com/webdataset/webdataset)

Where all of them are in folders `train` and `test` (or `val`), those are the two parts.
"""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from modelyard_workloads.data.records import RowPolicy, Rows
from modelyard_workloads.data.sources import Source, SourceFile
from modelyard_workloads.data.values import Column
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.image_classification import ImageClassificationParameters

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_HELD_OUT = ("test", "val")
_LARGEST = 256 << 20  # bytes of one encoded image


@dataclass(frozen=True)
class LabelledImage:
    """What is known of an image before it is read: its class, and its part (train, held_out or "": to be divided)."""

    label: str
    part: str


class ImageFiles(Protocol):
    """Two passes over the same images in the same order."""

    def labels(self) -> Iterator[LabelledImage]:
        """The first: labels alone. Raises DataError with the place of what cannot be understood."""
        ...

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """The second: place and encoded image."""
        ...


def open_images(source: Source, parameters: ImageClassificationParameters) -> ImageFiles:
    """What reads this source, by the suffixes of its files. Raises DataError where there are no images."""
    names = [file.relative.lower() for file in source.files]
    if any(name.endswith(".parquet") for name in names):
        return ParquetImages(source.select((".parquet",)), parameters)
    if any(name.endswith(".tar") for name in names):
        return TarImages(source.select((".tar",)), RowPolicy.of(parameters))
    return FolderImages(source)


class FolderImages:
    """A folder for each class."""

    def __init__(self, source: Source) -> None:
        self._files = source.select(SUFFIXES)
        _divided([file.relative for file in self._files], source.address)
        for file in self._files:
            if not _class_of(file.relative):
                raise DataError(f"dataset.uri: {file.address} is in no folder; each class needs a folder of its own")
        if source.address.startswith("file://"):
            self._check_empty_folders()

    def labels(self) -> Iterator[LabelledImage]:
        """The names of the folders."""
        for file in self._files:
            yield LabelledImage(_class_of(file.relative), _part(file.relative))

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """One file after the other."""
        for file in self._files:
            with file.open() as stream:
                yield file.address, stream.read(_LARGEST)

    def _check_empty_folders(self) -> None:
        """A class without images is a mistake that only a real folder shows."""
        root = Path(self._files[0].path.removesuffix(self._files[0].relative))
        parts = [root / name for name in ("train", *_HELD_OUT) if (root / name).is_dir()] or [root]
        used = {str(root / PurePosixPath(file.relative).parent) for file in self._files}
        for part in parts:
            for folder in sorted(part.iterdir()):
                inside = f"{folder}/"
                counts = folder.is_dir() and not folder.name.startswith((".", "_"))
                if counts and not any(f"{path}/".startswith(inside) for path in used):
                    raise DataError(f"dataset.uri: no images in {folder}")


class ParquetImages:
    """Rows with an image and a label."""

    def __init__(self, files: Sequence[SourceFile], parameters: ImageClassificationParameters) -> None:
        self._files = files
        self._image, self._label = parameters.image_column, parameters.label_column
        _divided([file.relative for file in files], "the Parquet files")

    def labels(self) -> Iterator[LabelledImage]:
        """The column of labels; numbers are written as text."""
        for file in self._files:
            for chunk in Rows([file], [Column(self._label)], RowPolicy()).chunks():
                for label in chunk.columns[self._label]:
                    yield LabelledImage(label, _part(file.relative))

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """The column of images; what is none has no bytes, and fails when it is decoded."""
        columns = [Column(self._image, object, optional=True)]
        for row in Rows(self._files, columns, RowPolicy()):
            value: Any = row.values[self._image]
            value = value.get("bytes") if isinstance(value, dict) else value
            yield row.place, value if isinstance(value, bytes) else b""


class TarImages:
    """WebDataset: the members of a sample have the same name up to the first dot."""

    def __init__(self, files: Sequence[SourceFile], policy: RowPolicy) -> None:
        self._files = files
        self._policy = policy
        self._kept: dict[str, set[str]] = {}  # members with a label, by tar file
        _divided([file.relative for file in files], "the tar files")

    def labels(self) -> Iterator[LabelledImage]:
        """Of every image that has one; others are bad rows."""
        for file in self._files:
            images: list[str] = []
            labels: dict[str, str] = {}
            for name, read in _members(file):
                key, _, suffix = _split(name)
                if f".{suffix}" in SUFFIXES:
                    images.append(name)
                elif suffix in ("cls", "json"):
                    labels[key] = self._label(f"{file.address}: {name}", suffix, read())
            self._kept[file.address] = set()
            for name in images:
                label = labels.get(_split(name)[0], "")
                if not label:
                    self._policy.bad(f"{file.address}: {name}", "has no label; put a .cls or .json beside it")
                    continue
                self._kept[file.address].add(name)
                yield LabelledImage(label, _part(file.relative))

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """The members that `labels` has told."""
        for file in self._files:
            for name, read in _members(file):
                if name in self._kept[file.address]:
                    yield f"{file.address}: {name}", read()

    def _label(self, place: str, suffix: str, content: bytes) -> str:
        try:
            text = content.decode().strip()
            return text if suffix == "cls" else str(json.loads(text)["label"])
        except (ValueError, KeyError, TypeError):
            self._policy.bad(place, 'is no label; write the class, or {"label": the class} as JSON')
            return ""


def _members(file: SourceFile) -> Iterator[tuple[str, Any]]:
    """(name, function that reads it) of the regular members. Raises DataError for a damaged archive."""
    with contextlib.ExitStack() as stack:
        try:
            archive = stack.enter_context(tarfile.open(file.local()))
            for member in archive:
                stream = archive.extractfile(member) if member.isreg() else None
                if stream is not None:
                    yield member.name, lambda stream=stream: stream.read(_LARGEST)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{file.address}: is no tar file, or a damaged one: {error}") from None


def _split(name: str) -> tuple[str, str, str]:
    """(key, ".", suffix): the key ends at the first dot of the last part of the name."""
    folder, slash, last = name.rpartition("/")
    key, dot, suffix = last.partition(".")
    return f"{folder}{slash}{key}", dot, suffix.lower()


def _part(relative: str) -> str:
    first = PurePosixPath(relative).parts[0]
    return "train" if first == "train" else "held_out" if first in _HELD_OUT else ""


def _class_of(relative: str) -> str:
    """The folder that names the class, or nothing."""
    folders = PurePosixPath(relative).parts[:-1]
    folders = folders[1:] if _part(relative) else folders
    return folders[0] if folders else ""


def _divided(names: Sequence[str], address: str) -> None:
    """Raise DataError unless all files are in train and test or val, or none is."""
    parts = {_part(name) for name in names}
    if parts == {"train"}:
        raise DataError(f"dataset.uri: {address} has train/ but neither test/ nor val/")
    if len(parts) > 1 and parts != {"train", "held_out"}:
        raise DataError(f"dataset.uri: {address} has train/, test/ or val/ beside other files; move them apart")
