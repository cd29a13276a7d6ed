"""A small server for tests of what is around servers: starts in a second, tells its load, and fails as it is told.

Run in pods of the operator's image by `python -c`; environment: VERSION, LABEL, FAIL_EVERY (every n-th request is a
500), DELAY (seconds).
"""

from __future__ import annotations

import asyncio
import os
from time import monotonic
from typing import Any

from aiohttp import web


class Server:
    """Answers, counts, drains."""

    def __init__(self) -> None:
        self._every = int(os.environ.get("FAIL_EVERY") or 0)
        self._delay = float(os.environ.get("DELAY") or 0.01)
        self._count = self._in_flight = 0
        self._area, self._changed = 0.0, monotonic()

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
        return web.json_response(body, status=500 if failed else 200)

    async def load(self, _: web.Request) -> web.Response:
        self._change(0)
        told = {"inFlight": self._in_flight, "inFlightSeconds": self._area, "requests": self._count, "tokens": 0}
        return web.json_response(told)

    async def healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    def _change(self, by: int) -> None:
        now = monotonic()
        self._area += self._in_flight * (now - self._changed)
        self._changed = now
        self._in_flight += by


def main() -> None:
    server = Server()
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v2/health/load", server.load)
    app.router.add_get("/healthz", server.healthy)
    app.router.add_route("*", "/{path:.*}", server.answer)
    web.run_app(app, port=8080, access_log=None, print=None, shutdown_timeout=30)


if __name__ == "__main__":
    main()
