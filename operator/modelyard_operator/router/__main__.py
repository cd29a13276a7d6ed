"""`python -m modelyard_operator.router`: the router of one ModelService, configured by MODELYARD_ROUTER.

Exit codes: 0 after SIGTERM, 64 for a bad configuration.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from time import monotonic

import uvloop
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from modelyard_operator.router.config import InvalidConfig, RouterConfig, parse_config
from modelyard_operator.router.counts import Counts
from modelyard_operator.router.passthrough import PassThrough
from modelyard_operator.router.proxy import Proxy
from modelyard_operator.router.wire import MAX_HEAD

EX_USAGE = 64
QUIET_SECONDS = 1.0
"""Without a request after the signal, and no connection is open: then nobody knows this router any more."""
IDLE_SECONDS = 5.0
"""The same while some are open: on one that is closed a request may just be coming."""
_BACKLOG = 2048
_NEW_OBJECTS = 20_000
"""Before the cycle collector looks at them; its 700 are those of few concurrent requests."""

log = logging.getLogger("modelyard_operator.router")


class Router:
    """The process: clients' port, admin port, drain."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self.counts = Counts(config.table)
        self.proxy = Proxy(config, self.counts)
        self.passthrough = PassThrough(config, self.counts) if config.grpc_port is not None else None
        self.port = 0
        self.grpc_port = 0
        self.admin_port = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop`, then drain."""
        server = await asyncio.start_server(
            self.proxy.serve, self._config.host, self._config.port, limit=MAX_HEAD, backlog=_BACKLOG
        )
        if self.passthrough is not None:
            grpc = await asyncio.start_server(self.passthrough.serve, self._config.host, self._config.grpc_port)
            self.grpc_port = grpc.sockets[0].getsockname()[1]
        runner = web.AppRunner(self._admin(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, self._config.host, self._config.admin_port)
        await site.start()
        self.port = server.sockets[0].getsockname()[1]
        self.admin_port = runner.addresses[0][1]
        log.info("listening on port %d, admin on port %d, table %s", self.port, self.admin_port, self._config.table)
        await stop.wait()
        await self.drain()
        server.close()
        if self.passthrough is not None:
            grpc.close()
        self.proxy.upstream.close()
        await runner.cleanup()

    async def drain(self) -> None:
        """Answer everything that still comes, telling clients to connect anew, until it is quiet."""
        self.proxy.draining = True
        due = monotonic() + self._config.drain_seconds
        began = monotonic()
        while monotonic() < due:
            status = self.counts.status()
            enough = IDLE_SECONDS if self.proxy.connections else QUIET_SECONDS
            if not self.counts.in_flight and min(status["idleSeconds"], monotonic() - began) >= enough:
                return
            await asyncio.sleep(0.1)
        if self.counts.in_flight:
            log.warning("the drain's time is over with %d requests in flight", self.counts.in_flight)

    def _admin(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._healthy)
        app.router.add_get("/readyz", self._ready)
        app.router.add_get("/status", self._status)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(status=503 if self.proxy.draining else 200)

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self.counts.status())

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self.counts.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _main(config: RouterConfig) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Router(config).run(stop)


def main() -> int:
    """Configure and serve."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        config = parse_config(os.environ.get("MODELYARD_ROUTER", ""))
    except InvalidConfig as error:
        log.error("%s", error)
        return EX_USAGE
    gc.freeze()  # what is there now stays: no collection needs to visit it
    gc.set_threshold(_NEW_OBJECTS)
    uvloop.run(_main(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
