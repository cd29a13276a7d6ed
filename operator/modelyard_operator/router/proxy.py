"""One client's connection: its requests go to a revision each, their answers come back as they are.

Bodies pass through in both directions without being held; only what is small is kept, to be sent again when a server
went away before it answered (a prediction has no side effects: RFC 9110 9.2.2), and to be mirrored.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from time import monotonic

from modelyard_operator.router.config import Backend, RouterConfig
from modelyard_operator.router.counts import Counts
from modelyard_operator.router.mirror import Mirror
from modelyard_operator.router.table import Shares
from modelyard_operator.router.upstream import ClientGone, Connection, Full, TooLong, Upstream
from modelyard_operator.router.wire import BadMessage, Head, body_pieces, forwarded, read_head

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 65.0
KEPT_BYTES = 1 << 20
"""A body up to this size can be sent again and mirrored."""
ATTEMPTS = 3
_SMALL = 65_536
_BROKEN = (OSError, asyncio.IncompleteReadError, BadMessage, EOFError)
_NO_BODY = (204, 304)


class Refusal(Exception):
    """An answer of the router's own."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


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
        self._timeout = config.timeout_seconds + 5  # the server's own answer comes first
        self.upstream = Upstream(config, counts)
        self._mirror = Mirror(config, counts, self.upstream) if config.mirror is not None else None
        self.draining = False
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All requests of one connection."""
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
            with suppress(OSError):
                await writer.drain()
        except (*_BROKEN, TimeoutError, ClientGone):
            writer.transport.abort()
        finally:
            self.connections -= 1
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """The next request and its answer; whether there may be another."""
        try:
            async with asyncio.timeout(KEEP_ALIVE_SECONDS):
                head = await read_head(reader)
        except BadMessage as error:
            _reply(writer, Refusal(error.status, str(error)), keep=False)
            return False
        if head is None:
            return False
        self._counts.arrived()
        try:
            return await self._exchange(head, reader, writer)
        except Refusal as refusal:
            _reply(writer, refusal, keep=False)
            return False
        finally:
            self._counts.left()

    async def _exchange(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        body = Body(head, reader)
        if head.value(b"expect").lower() == b"100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = _without_expect(head)
        async with asyncio.timeout(self._timeout):
            await body.read_small()
        order = self._shares.next()
        for attempt in range(ATTEMPTS):
            started = monotonic()
            backend, connection = await self._connect(order, reader, fresh=attempt > 0)
            try:
                answer = await self._ask(head, body, connection, reader)
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
            return await self._pass_on(head, body, answer, backend, connection, writer, started)
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

    async def _ask(self, head: Head, body: Body, connection: Connection, client: asyncio.StreamReader) -> Head:
        """Send a request and read the head of its answer, while the body may still be on its way."""
        connection.writer.write(forwarded(head))
        sending: asyncio.Task[None] | None = None
        if body.complete:
            await body.send(connection.writer)
        else:
            sending = asyncio.create_task(body.send(connection.writer))
        try:
            async with asyncio.timeout(self._timeout):
                return await self._answer_head(connection, client)
        except TimeoutError:
            raise Refusal(504, "the server did not answer in time") from None
        finally:
            if sending is not None and not sending.done():
                sending.cancel()  # the server has answered without waiting for the rest
            if sending is not None:
                with suppress(asyncio.CancelledError, *_BROKEN):
                    await sending

    async def _answer_head(self, connection: Connection, client: asyncio.StreamReader) -> Head:
        """The final head of an answer. Raises ClientGone when nobody waits for it any more."""
        reading = asyncio.ensure_future(read_head(connection.reader))
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=0.5)
                if not done:
                    if client.at_eof():
                        raise ClientGone
                    continue
                head = reading.result()
                if head is None:
                    raise EOFError("the connection ended before an answer")
                if head.status >= 200:
                    return head
                reading = asyncio.ensure_future(read_head(connection.reader))
        finally:
            reading.cancel()

    async def _pass_on(
        self,
        head: Head,
        body: Body,
        answer: Head,
        backend: Backend,
        connection: Connection,
        writer: asyncio.StreamWriter,
        started: float,
    ) -> bool:
        bounded = answer.chunked or answer.length is not None
        empty = head.start[0] == b"HEAD" or answer.status in _NO_BODY
        keep = head.keep_alive and body.complete and (bounded or empty) and not self.draining
        wanted = self._mirror is not None and backend.revision == self._baseline and body.complete
        copy = _Copy(wanted and not head.explains)
        code = 0
        try:
            writer.write(forwarded(answer, close=not keep))
            if not empty:
                async for piece in body_pieces(connection.reader, answer):
                    writer.write(piece)
                    copy.add(piece)
                    async with asyncio.timeout(self._timeout):
                        await writer.drain()
            code = answer.status
        finally:
            self._counts.answered(backend.revision, code, monotonic() - started, judged=not head.explains)
            if code and answer.keep_alive and bounded and body.complete:
                self.upstream.pools[backend.revision].give_back(connection)
            else:
                connection.close()
        if self._mirror is not None and copy.data is not None and body.kept is not None:
            self._mirror.send(head, body.kept, answer, bytes(copy.data))
        return keep


class _Copy:
    """An answer's body while it is small, or nothing."""

    def __init__(self, wanted: bool) -> None:
        self.data: bytearray | None = bytearray() if wanted else None

    def add(self, piece: bytes) -> None:
        if self.data is not None:
            self.data += piece
            if len(self.data) > KEPT_BYTES:
                self.data = None


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
