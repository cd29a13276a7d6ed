"""API keys over gRPC: the metadata `authorization` (Bearer) or `x-api-key` of every call but those about health."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from modelyard_workloads.serve.auth import ApiKeys
from modelyard_workloads.serve.errors import Unauthorized

OPEN_METHODS = ("/grpc.health.v1.Health/", "/inference.GRPCInferenceService/Server")
"""ServerLive and ServerReady are asked by probes; ServerMetadata is not: see `_is_open`."""


def _is_open(method: str) -> bool:
    return method.startswith(OPEN_METHODS) and not method.endswith("/ServerMetadata")


class KeyCheck(grpc.aio.ServerInterceptor):
    """Refuses calls without a key before their message is read."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of the call, or one that refuses it."""
        handler = await continuation(details)
        if handler is None or _is_open(details.method):
            return handler
        pairs = ((name, value) for name, value in details.invocation_metadata or () if isinstance(value, str))
        try:
            self._keys.check(pairs)
        except Unauthorized as error:
            return _refusing(handler, str(error))
        return handler


def _refusing(handler: grpc.RpcMethodHandler[Any, Any], message: str) -> grpc.RpcMethodHandler[Any, Any]:
    async def refuse(_: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, message)

    make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
    return make(refuse, handler.request_deserializer, handler.response_serializer)
