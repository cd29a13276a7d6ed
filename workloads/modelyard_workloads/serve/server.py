"""uvicorn with what it leaves to others: a drain that loses nothing, and limits on heads of requests.

Drain: on SIGTERM the ready check fails at once, everything that arrives is still answered, with `Connection: close`;
the process ends when nothing arrived for a moment, or after the drain's time. Kubernetes takes an endpoint out of
service while the pod is told to stop, not before: requests still arrive for a while.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Any, Protocol

import httptools
import orjson
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from modelyard_workloads.serve.app import Application
from modelyard_workloads.serve.config import ServeConfig
from modelyard_workloads.serve.corked import Corked
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.traffic import Traffic

log = logging.getLogger(__name__)

QUIET_SECONDS = 1.0  # without a request, and no connection is open: then nobody knows this server any more
IDLE_SECONDS = 5.0  # the same while some are open: on one that is closed a request may just be coming
KEEP_ALIVE_SECONDS = 65  # longer than the usual 60 of load balancers, so that they close first
_CLOSE_SECONDS = 3  # for the last replies, after the drain's time
_MAX_HEAD_BYTES = 65_536
_HEAD_SECONDS = 10.0
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class GuardedProtocol(HttpToolsProtocol):
    """A connection whose heads are bounded in size and time, and whose parse errors are JSON like all others."""

    _head_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that never sends anything is closed like an idle one."""
        super().connection_made(Corked(transport))
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._stop_head_timer()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count the bytes of an unfinished head."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(400, "the request is not HTTP/1.1")
            return
        if self._in_head:  # still: a head that comes in one piece needs no timer
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._head_too_slow)
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(431, f"the request's headers have more than {_MAX_HEAD_BYTES} bytes")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request that offers another protocol (Java's client offers HTTP/2 in its first one) as if it did not.

        The parser stops behind the head of such a request and would lose the body.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(400, "CONNECT is not supported")
            return
        lines = [method + b" " + self.url + b" HTTP/1.1"]
        lines += [name + b": " + value for name, value in self.headers if name not in (b"upgrade", b"connection")]
        self._stop_head_timer()
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """The head is there."""
        if self.parser.should_upgrade():
            return
        self._in_head = False
        self._stop_head_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _head_too_slow(self) -> None:
        self._refuse(408, f"the request's headers did not arrive within {_HEAD_SECONDS:.0f} s")

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, status: int, message: str) -> None:
        self._stop_head_timer()
        if self.transport.is_closing():
            return
        body = orjson.dumps({"error": message})
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, _REASONS[status], len(body)) + body)
        self.transport.close()


class Beside(Protocol):
    """Another protocol's server on the same event loop."""

    async def start(self, host: str, port: int) -> int:
        """Bind and serve; the port. Raises RuntimeError when it is taken."""

    async def stop(self, seconds: float) -> None:
        """Refuse new calls, give those in flight `seconds`."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """What the server needs to know of what it serves."""

    app: Application
    plane: DataPlane
    traffic: Traffic
    grpc: Beside | None = None  # None when the configuration names no port for it


class Server(uvicorn.Server):
    """uvicorn that drains. `on_started` is called on the loop once the ports are bound."""

    grpc_port: int | None = None

    def __init__(self, config: ServeConfig, served: Served, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                served.app,
                host=config.server.host,
                port=config.server.port,
                loop="uvloop",
                http=GuardedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=2048,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_CLOSE_SECONDS,
            )
        )
        self._config = config.server
        self._served = served
        self._plane = served.plane
        self._drain_seconds = config.drain.timeout_seconds
        self._draining_since = 0.0
        self._on_started = on_started

    async def startup(self, sockets: Any = None) -> None:
        """Bind, then begin to load."""
        await super().startup(sockets)
        if self.should_exit:
            return
        log.info("listening on port %d", self.servers[0].sockets[0].getsockname()[1])
        if self._served.grpc and self._config.grpc_port is not None:
            self.grpc_port = await self._served.grpc.start(self._config.host, self._config.grpc_port)
            log.info("listening on port %d for gRPC", self.grpc_port)
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close both ports, and end what explains: who waits for it is told to come again."""
        self._plane.close()
        if self._served.grpc:
            await self._served.grpc.stop(_CLOSE_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The first SIGTERM or SIGINT drains, a second one ends at once."""
        if self._plane.draining:
            self.should_exit = self.force_exit = True
            return
        self._plane.draining = True
        self._draining_since = monotonic()
        # No logging here: a signal may have interrupted the logging of another message.

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if await super().on_tick(counter):
            return True
        return self._plane.draining and self._drained()

    def _drained(self) -> bool:
        now, traffic = monotonic(), self._served.traffic
        if now - self._draining_since >= self._drain_seconds:
            log.warning("the drain's time is over with %d requests in flight", traffic.in_flight)
            return True
        quiet = now - max(traffic.last_request, self._draining_since)
        enough = IDLE_SECONDS if self.server_state.connections else QUIET_SECONDS
        if traffic.in_flight == 0 and quiet >= enough:
            log.info("drained %.1f s after the signal", now - self._draining_since)
            return True
        return False
