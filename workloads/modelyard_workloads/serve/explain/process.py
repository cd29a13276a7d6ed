"""The server's side of explanations: a process that lives beside the server and may take only what is left over.

It is started by the first request, has one thread at the lowest priority, loads the artifact itself and explains one
request at a time. One that takes too long, or whose client left, is killed with it; the next request starts another.
Only while it loads it is let live: a server that is busy leaves it little, and it would begin again for ever.
So nothing of it ever runs on the inference thread or holds this process' interpreter.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import BinaryIO, cast

from modelyard_workloads.hardware import openmp_environment
from modelyard_workloads.serve.config import ServeConfig
from modelyard_workloads.serve.errors import DeadlineExceeded, InvalidInput, NotReady, Saturated
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.explain.frames import read_explanations, read_ready, write_request
from modelyard_workloads.serve.tensors import Array

MAX_PENDING = 8
"""Requests that are explained or wait for it."""
MAX_ROWS = 64
"""Rows of a request, each of which costs as much as hundreds of predictions."""


class _Ask:
    """One request on its way through the process."""

    def __init__(self, arrays: Mapping[str, Array], deadline: float) -> None:
        self.arrays = arrays
        self.deadline = deadline
        self.given_up = False


def _refuse_if_given_up(ask: _Ask) -> None:
    if ask.given_up:
        raise DeadlineExceeded("given up")  # nobody reads it


class ExplainerProcess:
    """Explains on behalf of the data plane. `observe` gets the seconds of each explanation. On the event loop."""

    def __init__(self, config: ServeConfig, observe: Callable[[float], None]) -> None:
        self._environment = {
            **os.environ,
            **openmp_environment(1),
            "MODELYARD_CONFIG": config.model_dump_json(by_alias=True),
            "CUDA_VISIBLE_DEVICES": "",  # the accelerator is for predictions
        }
        self._observe = observe
        self._turn = asyncio.Lock()
        self._pending = 0
        self._pipes = ThreadPoolExecutor(1, "explanations")  # reads and writes them, which blocks
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded = False

    @property
    def pid(self) -> int | None:
        """Of the process, None while there is none."""
        process = self._process
        return None if process is None else process.pid

    async def explain(self, arrays: Mapping[str, Array], deadline: float) -> list[Explanation]:
        """One for each row; `deadline` of time.monotonic. Raises the errors of errors.py."""
        rows = len(next(iter(arrays.values())))
        if rows > MAX_ROWS:
            raise InvalidInput(f"inputs: {rows} rows, at most {MAX_ROWS} are explained at a time; send fewer")
        if self._pending >= MAX_PENDING:
            raise Saturated(f"{self._pending} requests wait for explanations, which is the most; try again later")
        self._pending += 1
        started = monotonic()
        try:
            async with asyncio.timeout(max(0.0, deadline - started)), self._turn:
                return await self._one(_Ask(arrays, deadline))
        except TimeoutError:
            raise DeadlineExceeded("no explanation within the request's time; send fewer rows or steps") from None
        finally:
            self._pending -= 1
            self._observe(monotonic() - started)

    async def _one(self, ask: _Ask) -> list[Explanation]:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pipes, self._exchange, ask)
        except asyncio.CancelledError:
            with self._starting:
                ask.given_up = True
                if self._process is not None and self._loaded:
                    self._process.kill()
            raise

    def _exchange(self, ask: _Ask) -> list[Explanation]:
        """On the thread of the pipes."""
        process = self._running(ask)
        try:
            self._wait_until_loaded(process, ask)
            write_request(cast(BinaryIO, process.stdin), ask.arrays, ask.deadline - monotonic())
            return read_explanations(cast(BinaryIO, process.stdout))
        except (EOFError, OSError):
            self._bury(process)
            raise NotReady("the process that explains ended; try again") from None

    def _running(self, ask: _Ask) -> subprocess.Popen[bytes]:
        with self._starting:
            _refuse_if_given_up(ask)
            if self._process is not None and self._process.poll() is not None:
                self._bury(self._process)
            if self._process is None:
                command = [sys.executable, "-m", "modelyard_workloads.serve.explain"]
                self._process = subprocess.Popen(
                    command, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
                )
                self._loaded = False
            return self._process

    def _wait_until_loaded(self, process: subprocess.Popen[bytes], ask: _Ask) -> None:
        if not self._loaded:
            read_ready(cast(BinaryIO, process.stdout))
            with self._starting:
                self._loaded = True
                _refuse_if_given_up(ask)

    def _bury(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what could not be written is written again
                    pipe.close()
        process.wait()
        self._process = None

    def close(self) -> None:
        """End the process; whoever waits for it is told to try again."""
        with self._starting:
            if self._process is not None:
                self._process.kill()
                self._process.wait()
        self._pipes.shutdown(wait=False, cancel_futures=True)
