"""gRPC through the router: whole connections go to a revision each, byte for byte; a new one waits for a server too.

The shares hold for connections, not for calls: a client keeps one for many calls. An idle connection keeps no server
alive; its client makes another when it needs one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from modelyard_operator.router.config import RouterConfig
from modelyard_operator.router.counts import Counts
from modelyard_operator.router.table import Shares
from modelyard_operator.router.upstream import ClientGone, Full, TooLong, Upstream
from modelyard_operator.router.wire import PIECE


class PassThrough:
    """Serves clients' connections on the port for gRPC."""

    def __init__(self, config: RouterConfig, counts: Counts) -> None:
        self._counts = counts
        backends = [b.model_copy(update={"port": b.grpc_port}) for b in config.backends]
        self._shares = Shares(backends)
        self.upstream = Upstream(config.model_copy(update={"backends": backends, "mirror": None}), counts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        self._counts.touch()
        try:
            _, server = await self.upstream.take(self._shares.next(), reader.at_eof, fresh=True)
        except (Full, TooLong, ClientGone):
            writer.transport.abort()
            return
        pumps = {
            asyncio.create_task(self._pump(reader, server.writer)),
            asyncio.create_task(self._pump(server.reader, writer)),
        }
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            server.close()
            with suppress(OSError):
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE):
                self._counts.touch()
                writer.write(data)
                await writer.drain()
