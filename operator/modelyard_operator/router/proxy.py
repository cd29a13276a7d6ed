"""One client's connection: its requests go to a revision each, their answers come back as they are.

Bodies pass through in both directions without being held; only what is small is kept, to be sent again when a server
went away before it answered (a prediction has no side effects: RFC 9110 9.2.2), and to be mirrored.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

from modelyard_operator.router.config import Backend, RouterConfig
from modelyard_operator.router.counts import Counts
from modelyard_operator.router.mirror import Mirror
from modelyard_operator.router.patience import Watch, Watches
from modelyard_operator.router.table import Shares
from modelyard_operator.router.upstream import ClientGone, Connection, Full, TooLong, Upstream
from modelyard_operator.router.wire import BadMessage, Head, body_pieces, forwarded, read_head

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 65.0
KEPT_BYTES = 1 << 20
"""A body up to this size can be sent again and mirrored."""
ATTEMPTS = 3
ANSWER_SECONDS = 5.0
"""Beyond the server's own time: its answer comes first."""
_SMALL = 65_536
_BROKEN = (OSError, asyncio.IncompleteReadError, BadMessage, EOFError)
_NO_BODY = (204, 304)


class Refusal(Exception):
    """An answer of the router's own."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Client:
    """A client's connection, and the watch over what is done for it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    watch: Watch


class Body:
    """A request's body: read once, kept while it is small."""

    def __init__(self, head: Head, reader: asyncio.StreamReader) -> None:
        self._head = head
        self._reader = reader
        self.kept: bytes | None = b""
        self.complete = head.length == 0 and not head.chunked

    @property
    def replayable(self) -> bool:
        return self.kept is not None

    async def read_small(self) -> None:
        """Read it at once where it is small and its size is known."""
        length = self._head.length
        if not self.complete and length is not None and length <= _SMALL:
            self.kept = await self._reader.readexactly(length)
            self.complete = True

    async def send(self, writer: asyncio.StreamWriter) -> None:
        """What there is of it, and the rest as it comes."""
        if self.kept:
            writer.write(self.kept)
        if self.complete:
            return
        async for piece in body_pieces(self._reader, self._head):
            if self.kept is not None:
                self.kept = self.kept + piece if len(self.kept) + len(piece) <= KEPT_BYTES else None
            writer.write(piece)
            await writer.drain()
        self.complete = True


class Proxy:
    """Serves clients' connections."""

    def __init__(self, config: RouterConfig, counts: Counts) -> None:
        self._counts = counts
        self._shares = Shares(config.backends)
        self._baseline = config.backends[0].revision
        self._timeout = config.timeout_seconds + ANSWER_SECONDS
        self.upstream = Upstream(config, counts)
        self._mirror = Mirror(config, counts, self.upstream) if config.mirror is not None else None
        self._watches = Watches()
        self.draining = False

    @property
    def connections(self) -> int:
        """Clients' connections that are open."""
        return len(self._watches)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one connection."""
        client = Client(reader, writer, self._watches.open(reader))
        try:
            while await self._one(client):
                pass
            with suppress(OSError):
                await writer.drain()
        except (*_BROKEN, TimeoutError, ClientGone):
            writer.transport.abort()
        finally:
            self._watches.close(client.watch)
            writer.close()

    async def _one(self, client: Client) -> bool:
        """The next request and its answer; whether there may be another."""
        writer = client.writer
        try:
            with client.watch.step(KEEP_ALIVE_SECONDS):
                head = await read_head(client.reader)
        except BadMessage as error:
            _reply(writer, Refusal(error.status, str(error)), keep=False)
            return False
        if head is None:
            return False
        self._counts.arrived()
        try:
            return await self._exchange(head, client)
        except Refusal as refusal:
            _reply(writer, refusal, keep=False)
            return False
        finally:
            self._counts.left()

    async def _exchange(self, head: Head, client: Client) -> bool:
        body = Body(head, client.reader)
        if head.value(b"expect").lower() == b"100-continue":
            client.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = _without_expect(head)
        with client.watch.step(self._timeout):
            await body.read_small()
        order = self._shares.next()
        for attempt in range(ATTEMPTS):
            started = monotonic()
            backend, connection = await self._connect(order, client.reader, fresh=attempt > 0)
            try:
                answer = await self._ask(head, body, connection, client.watch)
            except _BROKEN:
                connection.close()
                # A connection that was idle may have been closed by a server that ended: that is nobody's failure.
                if not connection.reused:
                    self._counts.answered(backend.revision, 0, monotonic() - started, judged=not head.explains)
                if not body.replayable or attempt == ATTEMPTS - 1:
                    raise Refusal(502, "the server went away before it answered") from None
                continue
            except BaseException:
                connection.close()
                raise
            return await self._pass_on(head, body, answer, backend, connection, client, started)
        raise AssertionError("unreachable")

    async def _connect(
        self, order: list[Backend], reader: asyncio.StreamReader, *, fresh: bool
    ) -> tuple[Backend, Connection]:
        try:
            return await self.upstream.take(order, reader.at_eof, fresh=fresh)
        except Full:
            raise Refusal(503, "too many requests wait for a server; try again later", 5) from None
        except TooLong:
            raise Refusal(504, "no server was ready in time", 5) from None

    async def _ask(self, head: Head, body: Body, connection: Connection, watch: Watch) -> Head:
        """Send a request and read the head of its answer, while the body may still be on its way.

        Raises ClientGone when nobody waits for it any more.
        """
        sending: asyncio.Task[None] | None = None
        if body.complete:
            connection.writer.write(forwarded(head) + (body.kept or b""))
        else:
            connection.writer.write(forwarded(head))
            sending = asyncio.create_task(body.send(connection.writer))
        try:
            with watch.step(self._timeout, for_client=True):
                return await _answer_head(connection.reader)
        except TimeoutError:
            raise Refusal(504, "the server did not answer in time") from None
        finally:
            if sending is not None and not sending.done():
                sending.cancel()  # the server has answered without waiting for the rest
            if sending is not None:
                with suppress(asyncio.CancelledError, *_BROKEN):
                    await sending

    async def _pass_on(
        self,
        head: Head,
        body: Body,
        answer: Head,
        backend: Backend,
        connection: Connection,
        client: Client,
        started: float,
    ) -> bool:
        bounded = answer.chunked or answer.length is not None
        empty = head.start[0] == b"HEAD" or answer.status in _NO_BODY
        keep = head.keep_alive and body.complete and (bounded or empty) and not self.draining
        wanted = self._mirror is not None and backend.revision == self._baseline and body.complete
        copy = _Copy(wanted and not head.explains)
        first = forwarded(answer, close=not keep)
        code, whole, judged = 0, False, not head.explains
        try:
            if empty:
                client.writer.write(first)
            else:
                await self._pass_body(first, answer, connection.reader, client, copy)
            code, whole = answer.status, True
        except ClientGone:
            code, judged = answer.status, False  # nobody's failure
            raise
        finally:
            self._counts.answered(backend.revision, code, monotonic() - started, judged=judged)
            if whole and answer.keep_alive and bounded and body.complete:
                self.upstream.pools[backend.revision].give_back(connection)
            else:
                connection.close()
        if self._mirror is not None and copy.data is not None and body.kept is not None:
            self._mirror.send(head, body.kept, answer, bytes(copy.data))
        return keep

    async def _pass_body(
        self, first: bytes, answer: Head, server: asyncio.StreamReader, client: Client, copy: _Copy
    ) -> None:
        """An answer, its head being `first`. Raises ClientGone, and what `body_pieces` raises."""
        if answer.length is not None and answer.length <= _SMALL:
            # one write instead of two, which are a fifth of what a request costs
            try:
                with client.watch.step(self._timeout, for_client=True):
                    piece = await server.readexactly(answer.length)
            except asyncio.IncompleteReadError as broken:
                client.writer.write(first + broken.partial)
                raise
            client.writer.write(first + piece)
            copy.add(piece)
            await self._drain(client)
            return
        client.writer.write(first)
        async for piece in body_pieces(server, answer):
            client.writer.write(piece)
            copy.add(piece)
            await self._drain(client)

    async def _drain(self, client: Client) -> None:
        """Until the client has taken most of what was written. Raises ClientGone."""
        try:
            with client.watch.step(self._timeout):
                await client.writer.drain()
        except (OSError, TimeoutError):
            raise ClientGone from None


class _Copy:
    """An answer's body while it is small, or nothing."""

    def __init__(self, wanted: bool) -> None:
        self.data: bytearray | None = bytearray() if wanted else None

    def add(self, piece: bytes) -> None:
        if self.data is not None:
            self.data += piece
            if len(self.data) > KEPT_BYTES:
                self.data = None


async def _answer_head(reader: asyncio.StreamReader) -> Head:
    """The final head of an answer: what comes before it is not passed on."""
    while True:
        head = await read_head(reader)
        if head is None:
            raise EOFError("the connection ended before an answer")
        if head.status >= 200:
            return head


def _without_expect(head: Head) -> Head:
    kept = tuple(item for item in head.headers if item[0] != b"expect")
    return Head(head.start, kept, head.length, head.chunked, head.keep_alive)


def _reply(writer: asyncio.StreamWriter, refusal: Refusal, *, keep: bool) -> None:
    body = json.dumps({"error": str(refusal)}).encode()
    lines = [
        f"HTTP/1.1 {refusal.status} {'Error' if refusal.status < 500 else 'Unavailable'}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    if refusal.retry_after is not None:
        lines.append(f"retry-after: {refusal.retry_after}")
    if not keep:
        lines.append("connection: close")
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
