"""Files that rank 0 makes and all ranks read: from the volume they share, or sent to where they do not.

Making may take many minutes, longer than a collective call waits. So the others hear every few seconds that rank 0 is
still at it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from modelyard_workloads.data.cache import cache_directory
from modelyard_workloads.exits import DataError, PeerLost

_HEARTBEAT_SECONDS = 5.0
_PART_BYTES = 64 << 20
_COMPLETE = ".complete"


def make_for_all(root: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The directory `root/key` with what `make` writes into it, on every rank; made once, by rank 0, unless it is there
    already. Only rank 0's key counts.

    A collective call where there is a process group. Where a rank does not see rank 0's directory, its files are sent
    to a cache on its machine. Raises whatever `make` raises, on rank 0; PeerLost on the others.
    """
    alone = not dist.is_initialized()
    directory = root / (key if alone else _text(key))
    if alone or dist.get_rank() == 0:
        with ThreadPoolExecutor(1) as executor:
            future = executor.submit(_make_once, directory, make)
            while not _finished(future):
                if not alone:
                    _tell(1)
            if not alone:
                _tell(2 if future.exception() else 0)
            future.result()
    else:
        while (word := _tell(1)) == 1:
            pass
        if word == 2:
            raise PeerLost("rank 0 could not prepare the data; the reason is in its log")
    return directory if alone else _share(directory)


def _make_once(directory: Path, make: Callable[[Path], None]) -> None:
    if (directory / _COMPLETE).exists():
        return
    temporary = directory.with_name(f".making-{directory.name}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        temporary.mkdir(parents=True)
        make(temporary)
        (temporary / _COMPLETE).touch()
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
    except OSError as error:
        reason = f"{error.strerror or error}; give the output more room"
        raise DataError(f"{directory.parent} cannot keep the prepared data: {reason}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _finished(future: Future[None]) -> bool:
    try:
        future.exception(timeout=_HEARTBEAT_SECONDS)
    except NotYet:
        return False
    return True


def _tell(word: int) -> int:
    """Rank 0's word to all: 0 done, 1 still working, 2 failed."""
    value = torch.tensor([word])
    dist.broadcast(value, src=0)
    return int(value)


def _share(directory: Path) -> Path:
    """Where the files are for this rank."""
    everywhere = torch.tensor([int((directory / _COMPLETE).exists())])
    here = bool(everywhere)
    dist.all_reduce(everywhere, op=dist.ReduceOp.MIN)
    if everywhere:
        return directory
    copy = cache_directory("prepared") / directory.name
    # One process of each machine that lacks them writes; the others only listen.
    writes = not here and os.environ.get("LOCAL_RANK", "0") == "0"
    if writes:
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir(parents=True)
    names = _text("\n".join(sorted(p.name for p in directory.iterdir() if p.is_file())) if _is_first() else "")
    for name in names.split("\n"):
        _send(directory / name, copy / name if writes else None)
    dist.barrier()
    return directory if here else copy


def _send(source: Path, target: Path | None) -> None:
    """A file of rank 0 to the ranks that have a target."""
    size = torch.tensor([source.stat().st_size if _is_first() else 0])
    dist.broadcast(size, src=0)
    reader = source.open("rb") if _is_first() else None
    writer = target.open("wb") if target else None
    try:
        for start in range(0, int(size), _PART_BYTES):
            count = min(_PART_BYTES, int(size) - start)
            part: Tensor = torch.empty(count, dtype=torch.uint8)
            if reader:
                part = torch.frombuffer(bytearray(reader.read(count)), dtype=torch.uint8)
            dist.broadcast(part, src=0)
            if writer:
                writer.write(part.numpy().tobytes())
        if target and not int(size):
            target.touch()
    finally:
        for file in (reader, writer):
            if file:
                file.close()


def _text(value: str) -> str:
    content = value.encode()
    size = torch.tensor([len(content)])
    dist.broadcast(size, src=0)
    data = torch.zeros(int(size), dtype=torch.uint8)
    if _is_first():
        data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    dist.broadcast(data, src=0)
    return data.numpy().tobytes().decode()


def _is_first() -> bool:
    return dist.get_rank() == 0
