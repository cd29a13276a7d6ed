"""`python -m modelyard_workloads.fetch`: load a model into a directory before its server starts.

Configured by MODELYARD_FETCH: {"uri", "digest", "path", "port"}; credentials are the variables MODELYARD_MODEL_* (see
`data.filesystems`). Where the address holds a `modelyard.json`, only what that lists is loaded, and every byte is
verified; else (a model for another server program) every file but those that would have to be unpickled.

What is there already and right, from a container that was ended before, is not loaded again. A file has its own name
only when it is complete. While it runs, `GET /progress` tells {"doneBytes", "totalBytes"}: of the archives while those
of an image come, then of the model's files. Archives are unpacked below the directory itself, and a file of one gets
its name by a link, so that nothing is on the disk twice.

Exit codes: 0, 64 for a bad configuration, 65 when the model cannot be had; the termination message says why.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from time import monotonic

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelyard_workloads.artifact import (
    MANIFEST_NAME,
    ArtifactError,
    ArtifactMissing,
    DigestMismatch,
    FileEntry,
    parse_manifest,
)
from modelyard_workloads.data.layers import Unpacking
from modelyard_workloads.data.sources import MODEL, Patience, SourceFile, open_source
from modelyard_workloads.durable import sha256_file
from modelyard_workloads.exits import DataError
from modelyard_workloads.serve.termination import LogTail, write_termination_message

EX_USAGE, EX_DATAERR = 64, 65
UNPICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".h5", ".msgpack")
PATIENCE = Patience()
_PIECE = 1 << 20
_UNPACKED = ".unpacked"
_TELL_SECONDS = 5.0

log = logging.getLogger(__name__)


class FetchConfig(BaseModel):
    """MODELYARD_FETCH."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uri: str = Field(pattern=r"^(s3|gs|https|hf|oci)://.+")
    digest: str = Field(default="", pattern=r"^(sha256:[0-9a-f]{64})?$")  # of modelyard.json; empty: any
    path: Path
    port: int = Field(default=0, ge=0, le=65535)  # of /progress; 0 = none


@dataclass
class Progress:
    """Bytes that are there, of all; None while not known."""

    total: int | None = None
    done: int = 0
    _told: float = field(default_factory=monotonic)

    def add(self, count: int) -> None:
        """More bytes are there; now and then a line in the log."""
        self.are_there(self.done + count, self.total)

    def are_there(self, done: int, total: int | None) -> None:
        """So many bytes are there, of so many; now and then a line in the log."""
        self.done, self.total = done, total
        if monotonic() - self._told >= _TELL_SECONDS:
            self._told = monotonic()
            share = f" ({self.done / self.total:.0%})" if self.total else ""
            log.info("%d bytes of %s%s", self.done, self.total or "?", share)


def fetch(config: FetchConfig, progress: Progress, patience: Patience = PATIENCE) -> None:
    """Load the model. Raises DataError, ArtifactError and OSError."""
    files = _listing(config, progress, patience)
    progress.done, progress.total = 0, None  # what came so far were archives
    manifest = files.pop(MANIFEST_NAME, None)
    if manifest is None:
        if config.digest:
            raise ArtifactMissing(f"{config.uri} has no {MANIFEST_NAME}: there is nothing that the digest is of")
        _copy_all(config, files, progress)
        _tidy(config)
        return
    with manifest.open() as stream:
        content = stream.read()
    actual = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if config.digest and config.digest != actual:
        raise DigestMismatch(f"{config.uri} has digest {actual}, expected {config.digest}")
    entries = parse_manifest(content, PurePosixPath(config.uri)).files
    progress.total = sum(entry.size for entry in entries)
    for entry in entries:
        _load_listed(config, entry, files, progress, patience)
    _place(config.path / MANIFEST_NAME, content)
    _tidy(config)


def _tidy(config: FetchConfig) -> None:
    """Let go of what was unpacked and is not the model's."""
    shutil.rmtree(config.path / _UNPACKED, ignore_errors=True)


def _listing(config: FetchConfig, progress: Progress, patience: Patience) -> dict[str, SourceFile]:
    """The files by name. Over https there is no list: the manifest has to be there."""
    if config.uri.startswith("https://"):
        source = open_source(f"{config.uri.rstrip('/')}/{MANIFEST_NAME}", MODEL, patience)
        return {MANIFEST_NAME: source.files[0]}
    unpacking = Unpacking(config.path / _UNPACKED, progress.are_there)
    return {file.relative: file for file in open_source(config.uri, MODEL, patience, unpacking).files}


def _load_listed(
    config: FetchConfig, entry: FileEntry, files: dict[str, SourceFile], progress: Progress, patience: Patience
) -> None:
    target = config.path / entry.path
    if target.is_file() and target.stat().st_size == entry.size and sha256_file(target) == entry.sha256:
        progress.add(entry.size)
        return
    if config.uri.startswith("https://"):
        (file,) = open_source(f"{config.uri.rstrip('/')}/{entry.path}", MODEL, patience).files
    elif entry.path in files:
        file = files[entry.path]
    else:
        raise DigestMismatch(f"{config.uri} has no {entry.path}, which its {MANIFEST_NAME} lists")
    size, sha256 = _download(file, target, progress, entry.size)
    if (size, sha256) != (entry.size, entry.sha256):
        target.unlink()
        raise DigestMismatch(f"{file.address} is not the file that {MANIFEST_NAME} lists: {size} bytes, {sha256}")


def _copy_all(config: FetchConfig, files: dict[str, SourceFile], progress: Progress) -> None:
    """A model in another layout, for another server program."""
    wanted = {name: file for name, file in files.items() if not name.lower().endswith(UNPICKLED)}
    left_out = sorted(files.keys() - wanted.keys())
    if left_out:
        log.warning("not loaded, because they would have to be unpickled: %s", ", ".join(left_out[:10]))
    if not wanted:
        raise ArtifactMissing(f"{config.uri} has no file that is loaded; weights must be safetensors")
    if all(file.size is not None for file in wanted.values()):
        progress.total = sum(file.size or 0 for file in wanted.values())
    for name, file in sorted(wanted.items()):
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or "\\" in name:
            raise DataError(f"model.uri: {file.address} has a name that leads out of the model's directory")
        target = config.path / name
        if target.is_file() and file.size is not None and target.stat().st_size == file.size:
            progress.add(file.size)
            continue
        _download(file, target, progress, file.size)


def _download(file: SourceFile, target: Path, progress: Progress, limit: int | None) -> tuple[int, str]:
    """(size, SHA-256) of what came; more than the limit is not taken."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    if file.unpacked is not None:
        partial.unlink(missing_ok=True)
        os.link(file.unpacked, partial)
        partial.rename(target)
        progress.add(size := target.stat().st_size)
        return size, sha256_file(target)
    hashed, size = hashlib.sha256(), 0
    with file.open() as stream, partial.open("wb") as out:
        while piece := stream.read(_PIECE):
            size += len(piece)
            if limit is not None and size > limit:
                raise DigestMismatch(f"{file.address} has more than the {limit} bytes that were announced")
            out.write(piece)
            hashed.update(piece)
            progress.add(len(piece))
    partial.rename(target)
    return size, hashed.hexdigest()


def _place(target: Path, content: bytes) -> None:
    partial = target.with_name(f".{target.name}.part")
    partial.write_bytes(content)
    partial.rename(target)


@contextmanager
def telling(progress: Progress, port: int) -> Iterator[None]:
    """Answer `GET /progress` meanwhile."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            body = json.dumps({"doneBytes": progress.done, "totalBytes": progress.total}).encode()
            self.send_response(200 if self.path == "/progress" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing: the operator asks every second."""

    if not port:
        yield
        return
    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def main() -> int:
    """Configure, load, and say why not when it fails."""
    tail = LogTail()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[logging.StreamHandler(), tail]
    )
    try:
        config = FetchConfig.model_validate_json(os.environ.get("MODELYARD_FETCH") or "{}")
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, issue['loc']))}: {issue['msg']}" for issue in error.errors())
        write_termination_message("InvalidConfig", f"MODELYARD_FETCH: {told}", tail.text())
        log.error("MODELYARD_FETCH: %s", told)
        return EX_USAGE
    progress, started = Progress(), monotonic()
    try:
        with telling(progress, config.port):
            fetch(config, progress)
    except (DataError, ArtifactError, OSError) as error:
        reason = error.reason if isinstance(error, ArtifactError) else "DownloadFailed"
        log.error("%s: %s", reason, error)
        write_termination_message(reason, str(error), tail.text())
        return EX_DATAERR
    log.info("%d bytes from %s in %.1f s", progress.done, config.uri, monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
