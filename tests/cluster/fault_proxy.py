"""A proxy between an operator and the API server that records every write and plays faults.

Plain HTTP on localhost towards the operator, TLS with the tests' certificate towards the API server. Counted writes
(POST, PUT, PATCH, DELETE; leases, Events and token reviews apart) are let through one at a time, so that "killed
after the n-th" means that exactly n were carried out.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, StreamReader, TCPConnector, web
from cluster.kubernetes_api import Access, Object

MUTATING = ("POST", "PUT", "PATCH", "DELETE")
APART = ("leases", "events", "tokenreviews")
HOP_HEADERS = {"Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Host", "Content-Encoding"}
DYING_SECONDS = 0.3
"""How long an operator that is to be killed after an answer may act upon it; its next write ends the wait."""


@dataclass(frozen=True)
class Write:
    """One request that changed something, or was to: when it was answered, on what, and how."""

    method: str
    path: str
    code: int
    at: float
    answer: Object = field(default_factory=dict)
    """The object as it became; empty if nothing became of the request."""

    @property
    def created(self) -> str:
        """The name of what a POST made."""
        return str(self.answer["metadata"]["name"]) if self.method == "POST" and self.answer else ""

    @property
    def resource(self) -> str:
        _, namespaced, rest = self.path.partition("/namespaces/")
        return rest.split("/")[1] if namespaced else self.path.rsplit("/", 1)[-1]

    @property
    def name(self) -> str:
        """The last part of a path to an object; empty for a POST to a collection."""
        parts = self.path.split("/namespaces/", 1)[-1].split("/")
        return parts[2] if len(parts) > 2 else ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}{self.created and '/'}{self.created} -> {self.code}"


@dataclass
class Killing:
    """Kill the operator after its n-th counted write: before the answer reaches it, or after."""

    after: int
    delivered: bool
    kill: Callable[[], None]
    """Ends the process at once; may start the next one."""
    count: int = 0


@dataclass
class Faults:
    """What is wrong at the moment; tests set the fields."""

    killing: Killing | None = None
    deaf: set[str] = field(default_factory=set)
    """Plurals whose watches hang: those open and those opened anew. Lists still work."""
    unreachable: bool = False
    answer: Callable[[str, str], tuple[int, str] | None] = lambda _method, _path: None
    """(method, path) -> (code, reason) to answer instead of the API server, or None to let the request through."""


class FaultProxy:
    """One address of the API server; runs in a loop that several proxies share."""

    def __init__(self, access: Access, loop: asyncio.AbstractEventLoop) -> None:
        self.faults = Faults()
        self.writes: list[Write] = []
        self.other_writes: list[Write] = []
        self._access = access
        self._loop = loop
        self._one_at_a_time = asyncio.Lock()
        self._streams: set[asyncio.Transport] = set()
        self._lives = 0  # operators killed: what one of them still had on the way is not carried out any more
        self.port: int = asyncio.run_coroutine_threadsafe(self._start(), loop).result(30)

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig that leads here."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "proxy",
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "proxy", "user": {}}],
        }
        path.write_text(json.dumps(config))
        return path

    def cut(self) -> None:
        """Break every connection and refuse new ones, until `mend`."""
        self.faults.unreachable = True
        self._loop.call_soon_threadsafe(self._abort_streams)

    def _abort_streams(self) -> None:
        for stream in list(self._streams):
            stream.abort()

    def mend(self) -> None:
        self.faults = Faults()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)

    async def _start(self) -> int:
        connector = TCPConnector(limit=0, ssl=self._access.tls)
        self._session = ClientSession(connector=connector, auto_decompress=False, timeout=ClientTimeout(sock_connect=5))
        app = web.Application(client_max_size=16 * 1024**2)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.faults.unreachable:
            return _broken(request)
        told = self.faults.answer(request.method, request.path)
        if request.method in MUTATING:
            return await self._write(request, told)
        if told is not None:
            return _status(*told)
        return await self._forward(request)

    async def _write(self, request: web.Request, told: tuple[int, str] | None) -> web.StreamResponse:
        plural = Write(request.method, request.path, 0, 0).resource
        if plural in APART:
            response = _status(*told) if told else await self._forward(request)
            self.other_writes.append(Write(request.method, request.path, response.status, time.monotonic()))
            return response
        life = self._lives
        async with self._one_at_a_time:
            killing = self.faults.killing
            if life == self._lives and killing is not None and killing.count >= killing.after:
                self._kill(killing)  # it went on after the answer that was to be its last
            if life != self._lives:
                return _broken(request)
            response = _status(*told) if told else await self._forward(request)
            self.writes.append(_recorded(request, response))
            if killing is not None:
                killing.count += 1
                if killing.count == killing.after and killing.delivered:
                    self._loop.call_later(DYING_SECONDS, self._kill, killing)
                elif killing.count == killing.after:
                    self._kill(killing)
                    return _broken(request)
            return response

    def _kill(self, killing: Killing) -> None:
        if self.faults.killing is killing:
            self.faults.killing = None
            self._lives += 1
            killing.kill()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        watching = request.query.get("watch") in ("true", "1")
        headers = {k: v for k, v in request.headers.items() if k not in HOP_HEADERS}
        body = await request.read()
        url = f"{self._access.server}{request.path_qs}"
        try:
            async with self._session.request(request.method, url, data=body or None, headers=headers) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.title() not in HOP_HEADERS - {"Content-Encoding"}}
                if not watching:
                    return web.Response(status=answer.status, body=await answer.read(), headers=kept)
                return await self._stream(
                    request, web.StreamResponse(status=answer.status, headers=kept), answer.content
                )
        except OSError:
            return _broken(request)

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, content: StreamReader
    ) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        self._streams.add(transport)
        plural = request.path.rstrip("/").rsplit("/", 1)[-1]
        try:
            await response.prepare(request)
            async for chunk in content.iter_any():
                if plural in self.faults.deaf:
                    await asyncio.sleep(3600)  # the connection stands and says nothing, not even bookmarks
                await response.write(chunk)
            await response.write_eof()
        except ConnectionError:
            pass
        finally:
            self._streams.discard(transport)
        return response


def _recorded(request: web.Request, response: web.StreamResponse) -> Write:
    answer: Object = {}
    if request.method != "DELETE" and response.status < 300 and isinstance(response, web.Response):
        body = response.body
        assert isinstance(body, bytes)
        answer = json.loads(_plain(body, response))
    return Write(request.method, request.path, response.status, time.monotonic(), answer)


def _plain(body: bytes, response: web.StreamResponse) -> bytes:
    return gzip.decompress(body) if response.headers.get("Content-Encoding") == "gzip" else body


def _broken(request: web.Request) -> web.Response:
    """No answer: the connection is gone."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=503)


def _status(code: int, reason: str) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}
    headers = {"Retry-After": "1"} if code == 429 else {}
    return web.json_response({**body, "message": f"{reason}, says the fault proxy"}, status=code, headers=headers)


class ProxyLoop:
    """The event loop, in a thread of its own, that the proxies of a test run share."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="fault-proxies", daemon=True)
        self._thread.start()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(_cancel_others(), self.loop).result(30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
