"""Routers and servers behind them, in the test's own event loop; real sockets, nothing imitated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web
from modelyard_operator.router.__main__ import Router
from modelyard_operator.router.config import RouterConfig

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(name: str, **fields: Any) -> Handler:
    """A handler that tells its name and the length of the body it got."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        return web.json_response({"model_version": name, "length": len(body), **fields})

    return handle


@asynccontextmanager
async def server(handler: Handler, port: int = 0) -> AsyncIterator[int]:
    """A server of one revision; gives its port."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def backend(revision: str, port: int, percent: int = 100) -> dict[str, Any]:
    return {"revision": revision, "host": "127.0.0.1", "port": port, "percent": percent}


class Client:
    """Speaks to one router."""

    def __init__(self, made: Router, session: aiohttp.ClientSession) -> None:
        self.router = made
        self.session = session
        self.url = f"http://127.0.0.1:{made.port}"

    async def post(self, body: bytes = b"{}", path: str = "/v2/models/m/infer", **fields: Any) -> tuple[int, Any]:
        async with self.session.post(self.url + path, data=body, **fields) as response:
            return response.status, await response.json()

    async def raw(self, data: bytes) -> bytes:
        """Everything that the router answers until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.router.port)
        writer.write(data)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        return answer


@asynccontextmanager
async def router(*backends: dict[str, Any], **fields: Any) -> AsyncIterator[Client]:
    """A router and a client; both end with the block."""
    told = {"host": "127.0.0.1", "port": 0, "adminPort": 0, "drainSeconds": 0, **fields}
    made, stop = Router(RouterConfig.model_validate({"backends": list(backends), **told})), asyncio.Event()
    running = asyncio.create_task(made.run(stop))
    try:
        await until(lambda: made.admin_port > 0)
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            yield Client(made, session)
    finally:
        stop.set()
        await running


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
