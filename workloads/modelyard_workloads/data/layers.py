"""The layers of a container image as files: archives, links, and what an upper layer hides of the lower ones.

Source: https://github.com/opencontainers/image-spec/blob/main/layer.md
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import shutil
import tarfile
from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TypeVar, cast

log = logging.getLogger(__name__)

_HIDES = ".wh."
_HIDES_ALL = ".wh..wh..opq"
_LINKS = ".wh..wh..links"  # ours, beside what a layer unpacks to; no file of an image has such a name
_PIECE = 1 << 20
_MOST_FILES = 100_000  # links to folders that hold links to folders double them, again and again
Entry = TypeVar("Entry")


def unheard(*_: int) -> None:
    """For bytes that nobody counts."""


@dataclass(frozen=True)
class Unpacking:
    """Where layers that are archives are unpacked, and who is told of their bytes as they come.

    `arrived(done, total)`: so many bytes are there, compressed as they come, of those of all archives.
    """

    folder: Path
    arrived: Callable[[int, int], None] = unheard


def is_archive(media_type: str) -> bool:
    """Whether a layer of this type is a tar archive."""
    return "tar" in media_type.replace("+", ".").split(".")


def unpack(stream: IO[bytes], media_type: str, folder: Path) -> None:
    """The files of an archive, plain or compressed by gzip or zstd, below `folder`.

    Links become files: they are resolved inside of the archive, wherever they claim to lead; those that lead to nothing
    in it are for `put_over`. Raises ValueError for names that lead out of it.
    """
    if media_type.endswith(("+zstd", ".zstd")):
        import pyarrow

        stream = cast("IO[bytes]", pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, "r"), "zstd"))
    links: list[tuple[str, str]] = []
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        for member in archive:
            if member.isfile():
                target = folder / inside(member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                assert content is not None
                with target.open("wb") as file:
                    shutil.copyfileobj(content, file, _PIECE)
            elif member.islnk():
                links.append((inside(member.name), posixpath.join("/", member.linkname)))
            elif member.issym():
                name = inside(member.name)
                links.append((name, posixpath.join("/", posixpath.dirname(name), member.linkname)))
    if waiting := _follow(links, folder):
        (folder / _LINKS).write_text(json.dumps(waiting), encoding="utf-8")


def _follow(links: list[tuple[str, str]], folder: Path) -> dict[str, str]:
    """Give each link the file that it names, also through other links; returns those that name none here."""
    waiting = dict(links)
    while waiting:
        ready = [(name, _below(folder, aim)) for name, aim in waiting.items() if _below(folder, aim).is_file()]
        for name, file in ready:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            os.link(file, path)
            del waiting[name]
        if not ready:
            break
    return {name: _inside_root(aim) for name, aim in waiting.items()}


def _below(folder: Path, aim: str) -> Path:
    return folder / _inside_root(aim)


def _inside_root(aim: str) -> str:
    """An absolute path of the archive, from its root; `..` there stays there, as on any file system."""
    return posixpath.normpath(aim).lstrip("/")


def put_over(lower: MutableMapping[str, Entry], folder: Path, describe: Callable[[str, Path], Entry]) -> None:
    """Put a layer's files, unpacked to `folder`, over those of the lower layers: what it hides goes, and its links to
    files or folders of any layer so far become what they lead to. One that leads to nothing is left out and told.
    Raises ValueError for more files than any model has.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    links = files.pop(_LINKS, None)
    for name in _uncover(lower, files):
        lower[name] = describe(name, files[name])
    for name, aim in json.loads(links.read_bytes()).items() if links else ():
        found = {known: entry for known, entry in lower.items() if known == aim or known.startswith(f"{aim}/")}
        lower.update({f"{name}{known.removeprefix(aim)}": entry for known, entry in found.items()})
        if len(lower) > _MOST_FILES:
            raise ValueError(f"with what its links lead to it has more than {_MOST_FILES} files")
        if not found:
            log.warning("the link %s is left out: there is no %s in its layer and those below", name, aim)


def _uncover(lower: MutableMapping[str, Entry], files: Iterable[str]) -> list[str]:
    """Take from `lower` what the layer with these files hides; returns its own files."""
    own = []
    for name in files:
        parent, _, last = name.rpartition("/")
        if not last.startswith(_HIDES):
            own.append(name)
            continue
        hidden = parent if last == _HIDES_ALL else posixpath.join(parent, last.removeprefix(_HIDES))
        for below in [n for n in lower if not hidden or n == hidden or n.startswith(f"{hidden}/")]:
            del lower[below]
    return own


def inside(name: str) -> str:
    """A file's name below the artifact. Raises ValueError for one that leads out of it."""
    path = PurePosixPath(name.removeprefix("./"))
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name:
        raise ValueError(f"a file in it has the name {name[:100]!r}, which leads out of the model's directory")
    return path.as_posix()
