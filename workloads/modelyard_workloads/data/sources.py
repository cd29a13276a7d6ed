"""From an address to files: `example://`, `file://` (a mounted volume), `s3://`, `gs://`, `https://`, `hf://`,
`oci://`.

    source = open_source(config.dataset.uri, DATASET)
    for file in source.select((".jsonl", ".jsonl.gz")):
        with file.open() as stream: ...           # bytes as they come, retried where the network fails
        path = file.local()                       # the whole file on this machine, kept for the next time

An address names one file, or a folder of which every file below counts, in the order of their names; names that begin
with `.` or `_` are left out (`.git`, `_SUCCESS`). The files of `example://NAME` are made on this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import unquote, urlparse

from modelyard_workloads.data.cache import cache_directory, make_once
from modelyard_workloads.data.examples import write_example
from modelyard_workloads.data.failures import GIVE_UP, blamed, is_denied
from modelyard_workloads.data.filesystems import READ_SECONDS, Credentials, credentials, open_filesystem
from modelyard_workloads.data.layers import Unpacking
from modelyard_workloads.exits import DataError

DATASET, MODEL = "MODELYARD_DATASET_", "MODELYARD_MODEL_"
_FIELDS = {DATASET: "dataset", MODEL: "model"}
_SCHEMES = ("example", "file", "s3", "gs", "https", "hf", "oci")
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How often a failing read is tried, and the seconds before the second try; doubled from try to try."""

    attempts: int = 5
    first_pause: float = 0.5


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file; it is opened when it is read."""

    address: str  # as people know it: s3://bucket/a.csv
    relative: str  # below the source's address: a.csv
    size: int | None  # bytes, where the server says
    version: str  # another one when the content is another
    subject: str  # the field that is to blame: dataset, model
    path: str = field(repr=False)
    filesystem: Any = field(repr=False, compare=False)
    unpacked: Path | None = None  # where it is already, when it came in an archive
    patience: Patience = field(default=Patience(), repr=False)

    @property
    def is_local(self) -> bool:
        """Is it on this machine already?"""
        return self.address.startswith("file://")

    def open(self) -> BinaryIO:
        """The bytes from the beginning. Reads raise DataError when the source fails for good."""
        if self.is_local:
            with self._blamed():
                return Path(self.path).open("rb")
        # The first byte now: a file that cannot be read should fail where it is opened.
        return io.BufferedReader(_PersistentStream(self), _BUFFER)

    def local(self) -> Path:
        """The file on this machine's disk; fetched once for all processes, and again only when its version changes."""
        if self.is_local:
            return Path(self.path)
        key = hashlib.sha256(f"{self.address}\n{self.size}\n{self.version}".encode()).hexdigest()
        target = cache_directory("files") / key / PurePosixPath(self.relative).name

        def fetch(temporary: Path) -> None:
            with self.open() as stream, temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, _BUFFER)
                copied = file.tell()
            if self.size is not None and copied != self.size:
                raise DataError(f"{self.address}: {copied} bytes came, {self.size} were announced")

        return make_once(target, fetch)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        with blamed(self.subject, self.address):
            yield


@dataclass(frozen=True, kw_only=True)
class Source:
    """The files behind an address."""

    address: str
    subject: str
    files: tuple[SourceFile, ...]
    revision: str = ""  # the commit, where the address is a repository's

    def select(self, suffixes: Sequence[str]) -> tuple[SourceFile, ...]:
        """The files whose names end so. Raises DataError when there are none."""
        found = tuple(file for file in self.files if file.relative.lower().endswith(tuple(suffixes)))
        if not found:
            some = ", ".join(file.relative for file in self.files[:5])
            raise DataError(
                f"{self.subject}.uri: no file of {self.address} ends with {', '.join(suffixes)}; it has {some}"
            )
        return found

    def local_directory(self) -> Path:
        """A directory on this machine with all files in it, under their names below the address."""
        if all(file.is_local for file in self.files):
            return Path(self.files[0].path.removesuffix(self.files[0].relative))
        versions = "\n".join(f"{file.address} {file.size} {file.version}" for file in self.files)
        target = cache_directory("folders") / hashlib.sha256(versions.encode()).hexdigest()

        def link(temporary: Path) -> None:
            for file in self.files:
                path = temporary / file.relative
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(file.local(), path)

        return make_once(target, link, directory=True)


def open_source(
    uri: str, prefix: str = DATASET, patience: Patience = Patience(), unpacking: Unpacking | None = None
) -> Source:
    """List the files of an address. `prefix` says whose credentials to use: DATASET or MODEL. What is in archives of
    `oci://` is unpacked as `unpacking` says, without it into the cache.

    Raises DataError that names the field: an unknown scheme, nothing there, no access, nobody answers.
    """
    subject = _FIELDS[prefix]
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise DataError(f"{subject}.uri: {uri!r} cannot be read; write one of {known}")
    if scheme == "example":
        name = uri.removeprefix("example://")
        with blamed(subject, uri):
            uri = make_example(name).as_uri()
        scheme = "file"
    keys = credentials(prefix)
    with blamed(subject, uri):
        filesystem = open_filesystem(scheme, keys, unpacking)
        root, revision = _persist(lambda: _root(scheme, uri, subject, keys), patience)

    def listing() -> list[dict[str, Any]]:
        entry = filesystem.info(root)
        if scheme == "https" or entry["type"] == "file":
            return [{**entry, "name": root}]
        # fsspec's walk leaves out what it cannot list, unless it is told otherwise.
        arguments = {} if scheme == "hf" else {"on_error": "raise"}
        return sorted(filesystem.find(root, detail=True, **arguments).values(), key=lambda entry: str(entry["name"]))

    with blamed(subject, uri):
        entries = _persist(listing, patience)
    files = tuple(
        SourceFile(
            address=_address(scheme, entry["name"], uri),
            relative=_relative(root, entry["name"]),
            size=entry.get("size"),
            version=_version(entry),
            subject=subject,
            path=entry["name"],
            filesystem=filesystem,
            unpacked=entry.get("local"),
            patience=patience,
        )
        for entry in entries
        if not any(part.startswith((".", "_")) for part in PurePosixPath(_relative(root, entry["name"])).parts)
    )
    if not files:
        raise DataError(f"{subject}.uri: there are no files at {uri}")
    return Source(address=uri, subject=subject, files=files, revision=revision)


def make_example(name: str) -> Path:
    """The directory of `example://NAME`, made when it is not there. Raises FileNotFoundError for an unknown name."""

    def write(temporary: Path) -> None:
        write_example(name, temporary)

    return make_once(cache_directory("examples") / name, write, directory=True)


def _persist(action: Callable[[], Any], patience: Patience) -> Any:
    """The result of `action`, tried again after errors that may pass."""
    pause = patience.first_pause
    for attempt in range(1, patience.attempts + 1):
        try:
            return action()
        except GIVE_UP:
            raise
        except Exception as error:
            if attempt == patience.attempts or is_denied(error) or isinstance(error, ValueError):
                raise
            time.sleep(pause)
            pause *= 2
    raise AssertionError("unreachable")


class _PersistentStream(io.RawIOBase):
    """Bytes of a remote file; after a failure it is opened again and read on from where it was."""

    def __init__(self, file: SourceFile) -> None:
        self._file = file
        self._stream: Any = None
        self._position = 0
        with blamed(file.subject, file.address):
            _persist(self._reopen, file.patience)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end. Raises DataError when all tries failed."""
        with blamed(self._file.subject, self._file.address):
            data = _persist(lambda: self._read(len(buffer)), self._file.patience)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()
        super().close()

    def _read(self, count: int) -> bytes:
        if self._stream is None:
            self._reopen()
        try:
            data = bytes(self._stream.read(count))
        except BaseException:
            self._drop()
            raise
        size = self._file.size
        if not data and size is not None and self._position < size:
            self._drop()
            raise ConnectionError(f"it ended after {self._position} of {size} bytes")
        return data

    def _reopen(self) -> None:
        stream = self._file.filesystem.open(self._file.path, "rb")
        if self._position:
            if stream.seekable():
                stream.seek(self._position)
            else:
                _skip(stream, self._position)
        self._stream = stream

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):
                stream.close()


def _skip(stream: Any, count: int) -> None:
    while count:
        data = stream.read(min(count, _BUFFER))
        if not data:
            raise ConnectionError("the file is shorter than it was")
        count -= len(data)


def _root(scheme: str, uri: str, subject: str, keys: Credentials) -> tuple[str, str]:
    """(path in the file system, revision)"""
    if scheme == "file":
        return unquote(urlparse(uri).path).rstrip("/") or "/", ""
    if scheme == "https":
        return uri, ""
    path = uri.partition("://")[2].strip("/")
    return _pinned(path, subject, keys) if scheme == "hf" else (path, "")


def _pinned(path: str, subject: str, keys: Credentials) -> tuple[str, str]:
    """`[datasets/]OWNER/NAME[@REVISION][/PATH]` at the commit that the revision is now, and that commit: a branch may
    move while it is read.
    """
    from huggingface_hub import HfApi

    kind = "dataset" if subject == "dataset" or path.startswith("datasets/") else "model"
    found = re.fullmatch(r"([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", path.removeprefix("datasets/"))
    if not found:
        raise ValueError("write hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FOLDER")
    repository, revision, below = found.groups()
    api = HfApi(endpoint=keys.get("HF_ENDPOINT") or None, token=keys.get("HF_TOKEN") or False)
    commit = api.repo_info(repository, repo_type=kind, revision=revision, timeout=READ_SECONDS).sha
    root = f"{'datasets/' if kind == 'dataset' else ''}{repository}@{commit}"
    return (f"{root}/{below}" if below else root), str(commit)


def _address(scheme: str, path: str, uri: str) -> str:
    if scheme == "file":
        return Path(path).as_uri()
    return uri if scheme == "https" else f"{scheme}://{path}"


def _relative(root: str, path: str) -> str:
    below = path.removeprefix(root).lstrip("/")
    return below or PurePosixPath(urlparse(path).path or path).name


def _version(entry: dict[str, Any]) -> str:
    """Whatever the store says that changes with the content."""
    names = ("ETag", "Content-MD5", "Last-Modified", "blob_id", "mtime", "last_modified")
    return " ".join(str(entry[name]) for name in names if entry.get(name))
