"""Data that rank 0 prepares once and every rank has: tokens, vocabularies.

Rank 0 keeps it on the output volume, under a name that changes with the content: a restarted training finds it there.
Ranks that see the same volume read it there; the others get the bytes from rank 0 and keep them on their own disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path

import torch
import torch.distributed as dist

from modelyard_workloads.data.cache import cache_directory
from modelyard_workloads.distributed import broadcast_bytes
from modelyard_workloads.durable import make_temporary_directory, publish_directory
from modelyard_workloads.exits import PeerLost, PodError

_PIECE = 64 << 20
_BEAT_SECONDS = 20.0  # well below what the ranks wait for each other


def share_directory(root: Path, describe: Callable[[], str], make: Callable[[Path], None]) -> Path:
    """A directory below `root`, complete on every rank; a collective call.

    Only rank 0 calls `describe` (the directory's name) and, when it is not there yet, `make` (which fills an empty
    directory); what they raise, it raises, and the others raise PeerLost. Raises PodError when a disk refuses.
    """
    if not dist.is_initialized():
        return _made(root, describe, make)
    if dist.get_rank() == 0:
        with ThreadPoolExecutor(1) as worker:
            path = _watched(worker.submit(_made, root, describe, make))
    else:
        path = _awaited()
    return _received(path)


def _made(root: Path, describe: Callable[[], str], make: Callable[[Path], None]) -> Path:
    target = root / describe()
    if target.is_dir():
        return target
    try:
        temporary = make_temporary_directory(root, f"{target.name}-{os.getpid()}")
        try:
            make(temporary)
            if not target.is_dir():
                publish_directory(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise PodError(f"{root} cannot keep the prepared data: {error}") from None
    return target


def _watched(work: Future[Path]) -> Path:
    """Rank 0 tells the others that it is still at work, then that it is done, or that it failed."""
    while True:
        try:
            path = work.result(_BEAT_SECONDS)
        except StillRunning:
            broadcast_bytes(b"{}")
            continue
        except BaseException:
            broadcast_bytes(b'{"failed": true}')
            raise
        broadcast_bytes(json.dumps({"path": str(path)}).encode())
        return path


def _awaited() -> Path:
    while True:
        said = json.loads(broadcast_bytes(None))
        if said.get("failed"):
            raise PeerLost("rank 0 could not prepare the data")
        if "path" in said:
            return Path(said["path"])


def _received(path: Path) -> Path:
    """`path`, or a copy of it on this rank's own disk where the volume of rank 0 is not to be seen."""
    missing = torch.tensor([0 if path.is_dir() else 1])
    dist.all_reduce(missing, op=dist.ReduceOp.MAX)
    if not int(missing):
        return path
    mine = path if path.is_dir() else cache_directory("prepared") / path.name
    try:
        with contextlib.ExitStack() as stack:
            temporary: Path | None = None
            if not mine.is_dir():
                temporary = make_temporary_directory(mine.parent, f"{mine.name}-{os.getpid()}")
                stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            _transfer(path, temporary)
            if temporary is not None and not mine.is_dir():
                # another process of this machine may be as far: one of them wins, the content is the same
                with contextlib.suppress(FileExistsError):
                    publish_directory(temporary, mine)
    except OSError as error:
        raise PodError(f"{mine.parent} cannot keep the prepared data: {error}") from None
    return mine


def _transfer(source: Path, target: Path | None) -> None:
    """Send the files of rank 0's directory `source`; every rank with a `target` writes them there."""
    main = dist.get_rank() == 0
    files = sorted(p for p in source.iterdir() if p.is_file()) if main else []
    listing = json.dumps([(p.name, p.stat().st_size) for p in files]).encode()
    for name, size in json.loads(broadcast_bytes(listing if main else None)):
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context((source / name).open("rb")) if main else None
            writer = stack.enter_context((target / name).open("wb")) if target is not None else None
            for _ in range(0, size, _PIECE):
                piece = broadcast_bytes(reader.read(_PIECE) if reader else None)
                if writer:
                    writer.write(piece)
