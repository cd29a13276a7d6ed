"""How long the steps of clients' connections may take, and whether their clients are still there.

A timer for each step costs more than the step itself. Here a step writes down when it is due, and one look every half a
second goes over all connections: a step ends up to that much later than it is due.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from types import TracebackType

from modelyard_operator.router.upstream import ClientGone

LOOK_SECONDS = 0.5


class Watch:
    """Of the task that serves one connection: a context around each of its steps."""

    def __init__(self, client: asyncio.StreamReader) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._client = client
        self._due = math.inf
        self._for_client = False
        self._cause: type[Exception] | None = None

    def step(self, seconds: float, *, for_client: bool = False) -> Watch:
        """The next step may take so long; `for_client`: it is in vain when the client closes its connection.

        The context raises TimeoutError and ClientGone.
        """
        self._due = monotonic() + seconds
        self._for_client = for_client
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self._due = math.inf
        self._for_client = False
        cause, self._cause = self._cause, None
        # cancelled by somebody else too: that comes first
        if cause is not None and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise cause from None

    def look(self, now: float) -> None:
        """End the step that is due, or in vain."""
        if self._cause is not None:
            return
        if self._for_client and self._client.at_eof():
            self._cause = ClientGone
        elif now >= self._due:
            self._cause = TimeoutError
        else:
            return
        self._task.cancel()


class Watches:
    """All connections."""

    def __init__(self) -> None:
        self._all: set[Watch] = set()
        self._looking = False

    def __len__(self) -> int:
        return len(self._all)

    def open(self, client: asyncio.StreamReader) -> Watch:
        """Watch the task that calls this, which serves `client`."""
        watch = Watch(client)
        self._all.add(watch)
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
        return watch

    def close(self, watch: Watch) -> None:
        """The connection is closed."""
        self._all.discard(watch)

    def _look(self) -> None:
        now = monotonic()
        for watch in self._all:
            watch.look(now)
        self._looking = bool(self._all)
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
