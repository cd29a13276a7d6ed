"""A small server for tests of what is around servers: starts in a second, tells its load, and fails as it is told.

Run in pods of the operator's image by `python -c`; environment: VERSION, LABEL, FAIL_EVERY (every n-th request is a
500), DELAY (seconds). STREAM is answered in lines, one every tenth of a second; DIE ends the process at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
from time import monotonic
from typing import Any, TypeVar

from aiohttp import web

STREAM, DIE = "/stream", "/die"
IN_FLIGHT, REQUESTS, TOKENS = "small_requests_in_flight", "small_requests_total", "small_tokens_total"
TOKENS_OF_A_REQUEST = 10
LINES = 20
LAST = "last"
Answer = TypeVar("Answer", bound=web.StreamResponse)


class Server:
    """Answers, counts, drains."""

    def __init__(self) -> None:
        self._every = int(os.environ.get("FAIL_EVERY") or 0)
        self._delay = float(os.environ.get("DELAY") or 0.01)
        self._count = self._in_flight = 0
        self._area, self._changed = 0.0, monotonic()
        self._draining = False

    @property
    def _tokens(self) -> int:
        return TOKENS_OF_A_REQUEST * self._count

    async def drain(self) -> None:
        """As the bundled server does: on an idle connection that is closed, a request may just be coming."""
        self._draining, began, count = True, monotonic(), -1
        while count != self._count and monotonic() - began < 15:
            count = self._count
            await asyncio.sleep(3)

    def _last(self, response: Answer) -> Answer:
        """While it drains, every answer is the last on its connection, and says so."""
        if self._draining:
            response.force_close()
        return response

    async def answer(self, request: web.Request) -> web.Response:
        await request.read()
        self._count += 1
        failed = self._every and self._count % self._every == 0
        self._change(1)
        try:
            await asyncio.sleep(self._delay)
        finally:
            self._change(-1)
        body: dict[str, Any] = {"model_version": os.environ.get("VERSION"), "label": os.environ.get("LABEL")}
        return self._last(web.json_response(body, status=500 if failed else 200))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """LINES lines: the version and a number; the last one says so."""
        await request.read()
        self._count += 1
        response = self._last(web.StreamResponse())
        self._change(1)
        try:
            await response.prepare(request)
            for number in range(LINES):
                told = LAST if number == LINES - 1 else str(number)
                await response.write(f"{os.environ.get('VERSION')} {told}\n".encode())
                await asyncio.sleep(0.1)
        finally:
            self._change(-1)
        return response

    async def die(self, _: web.Request) -> web.Response:
        os._exit(137)

    async def load(self, _: web.Request) -> web.Response:
        self._change(0)
        told = {"inFlight": self._in_flight, "inFlightSeconds": self._area, "requests": self._count}
        return web.json_response({**told, "tokens": self._tokens})

    async def exposition(self, _: web.Request) -> web.Response:
        """The same for a Prometheus."""
        told = (
            (IN_FLIGHT, "gauge", self._in_flight),
            (REQUESTS, "counter", self._count),
            (TOKENS, "counter", self._tokens),
        )
        return web.Response(text="".join(f"# TYPE {name} {kind}\n{name} {value}\n" for name, kind, value in told))

    async def healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    def _change(self, by: int) -> None:
        now = monotonic()
        self._area += self._in_flight * (now - self._changed)
        self._changed = now
        self._in_flight += by


async def serve() -> None:
    """Until SIGTERM, and then until nothing has come for a while: clients are told to make other connections."""
    server, ended = Server(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v2/health/load", server.load)
    app.router.add_get("/metrics", server.exposition)
    app.router.add_get("/healthz", server.healthy)
    app.router.add_post(STREAM, server.stream)
    app.router.add_post(DIE, server.die)
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=30)
    await runner.setup()
    await web.TCPSite(runner, port=8080).start()
    await ended.wait()
    await server.drain()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
