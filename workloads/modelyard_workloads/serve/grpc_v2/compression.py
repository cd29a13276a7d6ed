"""Compressed replies, for gRPC clients that ask for them as over HTTP: by the metadata `accept-encoding`.

Every client library sends `grpc-accept-encoding` by itself: that tells what it could read, not what it wants, and on a
fast network compressing costs more than it saves. Whoever wants it adds the metadata, with Triton's clients as
`headers`. The library sends no client what it cannot read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from modelyard_workloads.serve.http import COMPRESS_FROM, accepted_codings

Context = grpc.aio.ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]


def compressing(method: Method) -> Method:
    """A method of one reply, which is compressed where the client asks for it and it pays."""

    async def call(request: Any, context: Context) -> Any:
        answer = await method(request, context)
        wanted = _wanted(context)
        if wanted is not grpc.Compression.NoCompression and answer.ByteSize() >= COMPRESS_FROM:
            await _begin(context, wanted)
        return answer

    return call


class StreamCompression:
    """Of the replies of a stream, as `compressing`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wanted = _wanted(context)
        self._has_begun = False

    async def before(self, reply: Any) -> None:
        """To be called before each reply."""
        if self._wanted is grpc.Compression.NoCompression:
            return
        if not self._has_begun:
            self._has_begun = True
            await _begin(self._context, self._wanted)
        if reply.ByteSize() < COMPRESS_FROM:
            self._context.disable_next_message_compression()


async def _begin(context: Context, wanted: grpc.Compression) -> None:
    context.set_compression(wanted)
    await context.send_initial_metadata(())  # without this grpc.aio takes no notice of it


def _wanted(context: Context) -> grpc.Compression:
    metadata = context.invocation_metadata() or ()
    accepted = {c for name, value in metadata if name == "accept-encoding" for c in accepted_codings(str(value))}
    if "gzip" in accepted:
        return grpc.Compression.Gzip
    return grpc.Compression.Deflate if "deflate" in accepted else grpc.Compression.NoCompression
