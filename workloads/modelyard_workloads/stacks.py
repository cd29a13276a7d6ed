"""Where every rank is, when nothing moves: Python's faulthandler writes it, even from inside a collective.

A rank opens nothing: it inherits a file from the launcher, registers faulthandler for SIGUSR1, and the launcher reads
what came. A rank that is stopped or asleep in the kernel cannot run a signal handler; then that is what is said of it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from modelyard_workloads.processes import STACKS_VARIABLE, Rank

DUMP_SIGNAL = signal.SIGUSR1
WAIT_SECONDS = 5.0  # for a rank to write
_QUIET_SECONDS = 0.3  # a dump that has not grown for this long is complete
_LIMIT = 256 << 10  # bytes kept of one rank
_KEPT_ATTEMPTS = 10
_DIGEST_FRAMES = 6
_SUMMARY_LENGTH = 2048  # what a status has room for
_STATES = {"T": "is stopped (SIGSTOP)", "t": "is stopped by a debugger", "D": "waits in the kernel (disk or network)"}


def install(environment: Mapping[str, str]) -> None:
    """In a rank: from now on DUMP_SIGNAL writes the stacks of all threads to the launcher's file."""
    descriptor = environment.get(STACKS_VARIABLE, "")
    if descriptor.isdecimal():
        faulthandler.register(DUMP_SIGNAL, file=int(descriptor), all_threads=True, chain=False)


def dump(ranks: Iterable[Rank], seconds: float = WAIT_SECONDS) -> dict[int, str]:
    """In the launcher: what each rank that still runs is doing, as text, by rank. Takes at most `seconds`."""
    running = [rank for rank in ranks if rank.exit_code is None]
    starts = {rank.rank: _size(rank.stacks) for rank in running}
    for rank in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rank.pid, DUMP_SIGNAL)
    deadline = time.monotonic() + seconds
    seen, quiet_since = starts, time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.1)
        sizes = {rank.rank: _size(rank.stacks) for rank in running}
        if sizes != seen:
            seen, quiet_since = sizes, time.monotonic()
        able = [rank.rank for rank in running if _state(rank.pid) not in _STATES]
        if all(sizes[number] > starts[number] for number in able) and time.monotonic() - quiet_since > _QUIET_SECONDS:
            break
    return {rank.rank: _text(rank, starts[rank.rank]) for rank in running}


def digest(rank: int, text: str) -> list[str]:
    """The first line, and the innermost frames of the main thread, which faulthandler writes last."""
    heading, _, body = text.partition("\n")
    thread = body.rstrip().rsplit("(most recent call first):", 1)[-1]
    frames = [line.strip() for line in thread.splitlines() if line.strip().startswith("File ")]
    return [f"stack of rank {rank}: {heading}", *(f"  {frame}" for frame in frames[:_DIGEST_FRAMES])]


def summary(texts: Mapping[int, str]) -> str:
    """Where all ranks are, at most 2,048 characters: ranks at the same place are named together, the fewest first,
    since the one that is elsewhere is the one that the others wait for.
    """
    places: dict[tuple[str, ...], list[int]] = {}
    for rank, text in sorted(texts.items()):
        heading, *frames = digest(rank, text)
        places.setdefault((heading.rstrip().rsplit(": ", 1)[-1], *frames), []).append(rank)
    lines: list[str] = []
    for (doing, *frames), ranks in sorted(places.items(), key=lambda place: (len(place[1]), place[1])):
        lines += [f"rank{'s' if len(ranks) > 1 else ''} {_ranges(ranks)}: {doing}", *frames]
    return "\n".join(lines)[:_SUMMARY_LENGTH]


def _ranges(ranks: list[int]) -> str:
    """Ascending numbers, shortly: 0, 2-7."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][-1] + 1:
            runs[-1][1:] = [rank]
        else:
            runs.append([rank])
    return ", ".join("-".join(map(str, run)) for run in runs)


def save(output: Path, attempt: int, texts: Mapping[int, str]) -> str:
    """Write `<output>/stacks/attempt-N/rank-K.txt`; returns that directory relative to the output. Raises OSError."""
    root = output / "stacks"
    directory = root / f"attempt-{attempt}"
    directory.mkdir(parents=True, exist_ok=True)
    for rank, text in texts.items():
        (directory / f"rank-{rank}.txt").write_text(text)
    older = sorted((p for p in root.glob("attempt-*") if p != directory), key=lambda p: p.stat().st_mtime)
    for path in older[: 1 - _KEPT_ATTEMPTS]:
        shutil.rmtree(path, ignore_errors=True)
    return f"stacks/{directory.name}"


def keep(output: Path, uri: str, attempt: int, texts: Mapping[int, str]) -> dict[str, str]:
    """Leave them in the output, a volume or an object store; says where. Raises OSError, and DataError for credentials
    that cannot be used.
    """
    from modelyard_workloads.remote_directory import is_remote, open_remote  # a second of imports, at a standstill only

    if is_remote(uri):
        remote, path = open_remote(uri), f"stacks/attempt-{attempt}"
        for rank, text in texts.items():
            remote.write(f"{path}/rank-{rank}.txt", text.encode())
    else:
        path = save(output, attempt, texts)
    return {"path": path} | ({"uri": f"{uri.rstrip('/')}/{path}"} if uri else {})


def _text(rank: Rank, start: int) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    state = _state(rank.pid)
    # Not seek and read: the rank shares the file's position.
    content = os.pread(rank.stacks.fileno(), _LIMIT, start).decode(errors="replace")
    if content:
        doing = "as it runs"
    elif state in _STATES:
        doing = f"{_STATES[state]} and cannot show its stack"
    else:
        doing = f"did not answer within {WAIT_SECONDS:.0f} s (state {state or 'ended'})"
    return f"rank {rank.rank}, process {rank.pid}, {now}: {doing}\n{content}"


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _state(pid: int) -> str:
    """The kernel's letter for what a process does; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return ""
