"""A directory of an object store, and what addresses one. Imports no torch: the launcher writes there too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

from modelyard_workloads.data.failures import blamed
from modelyard_workloads.data.filesystems import credentials, open_filesystem
from modelyard_workloads.durable import make_temporary_directory, publish_directory
from modelyard_workloads.heartbeat import moved

VARIABLES = "MODELYARD_OUTPUT_"
SCHEMES = ("s3", "gs")
_PIECE = 4 << 20


class RemoteDirectory:
    """A directory of an object store. Methods raise OSError when the store refuses."""

    def __init__(self, uri: str, filesystem: Any) -> None:
        parts = urlparse(uri)
        self.uri = uri.rstrip("/")
        self._root = f"{parts.netloc}{parts.path}".rstrip("/")
        self._files = filesystem

    def read(self, name: str) -> bytes | None:
        """A small file; None where there is none."""
        try:
            with self._files.open(f"{self._root}/{name}", "rb") as file:
                content: bytes = file.read()
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """A small file, at once or not at all."""
        with self._files.open(f"{self._root}/{name}", "wb") as file:
            file.write(content)

    def push(self, directory: Path, name: str, *, last: str = "") -> None:
        """Copy every file of a local directory whose size is another one here; `last` after all others are there."""
        names = sorted(p.relative_to(directory).as_posix() for p in directory.rglob("*") if p.is_file())
        for file in sorted(names, key=lambda file: file == last):
            source, target = directory / file, f"{self._root}/{name}/{file}"
            if file == last or self._size(target) != source.stat().st_size:
                with source.open("rb") as reader, self._files.open(target, "wb") as writer:
                    _copy(reader, writer)
            if self._size(target) != source.stat().st_size:
                raise OSError(f"{self.uri}/{name}/{file} is not there as it was written")

    def pull(self, name: str, directory: Path) -> None:
        """Copy every file below `name` into a local directory, which appears when it is complete."""
        temporary = make_temporary_directory(directory.parent, directory.name)
        try:
            for path in self._below(name):
                target = temporary / path.removeprefix(f"{self._root}/{name}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                with self._files.open(path, "rb") as reader, target.open("wb") as writer:
                    _copy(reader, writer)
            publish_directory(temporary, directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def having(self, name: str, file: str) -> list[str]:
        """The directories directly below `name` that have this file, in order."""
        prefix = f"{self._root}/{name}/"
        inner = (path.removeprefix(prefix).split("/") for path in self._below(name))
        return sorted(parts[0] for parts in inner if parts[1:] == [file])

    def rename(self, name: str, other: str) -> None:
        """A small file gets another name."""
        content = self.read(name)
        if content is not None:
            self.write(other, content)
            self._files.rm_file(f"{self._root}/{name}")

    def remove(self, name: str, *, first: str) -> None:
        """Remove all below `name`, beginning with the file that makes it complete."""
        for path in sorted(self._below(name), key=lambda path: not path.endswith(f"/{first}")):
            self._files.rm_file(path)

    def _below(self, name: str) -> Iterator[str]:
        try:
            self._files.invalidate_cache()
            yield from self._files.find(f"{self._root}/{name}")
        except FileNotFoundError:
            return

    def _size(self, path: str) -> int | None:
        try:
            self._files.invalidate_cache()
            return int(self._files.info(path)["size"])
        except FileNotFoundError:
            return None


def is_remote(uri: str) -> bool:
    """Is this output's address one of an object store?"""
    return urlparse(uri).scheme in SCHEMES


def open_remote(uri: str) -> RemoteDirectory:
    """The directory at an address. Raises DataError for credentials that cannot be used."""
    with blamed("output", uri):
        return RemoteDirectory(uri, open_filesystem(urlparse(uri).scheme, credentials(VARIABLES)))


def _copy(reader: BinaryIO, writer: BinaryIO) -> None:
    while piece := reader.read(_PIECE):
        writer.write(piece)
        moved()
