"""Server-sent events: a reply that is written while it is made (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelyard_workloads.serve.http import ClientGone, unless_gone


class EventStream(Response):
    """Writes each piece of `events` as soon as it is there; when the client has gone, `events` is closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        # No buffering in a proxy (nginx), nor a copy in a cache: a reader waits for every event.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """The reply."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def write() -> None:
            async with aclosing(self._events) as events:
                async for event in events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})

        try:
            await unless_gone(receive, write())
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(data: bytes) -> bytes:
    """One event; `data` has no line break."""
    return b"data: " + data + b"\n\n"
