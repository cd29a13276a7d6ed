"""grpc.health.v1: SERVING when new clients should come here. For Kubernetes' gRPC probes and for load balancers.

Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2 as pb

from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.errors import shown

SERVICE = "grpc.health.v1.Health"
_SECONDS = 1.0  # between two looks of a watcher


def health_handler(plane: DataPlane, service: str) -> grpc.GenericRpcHandler:
    """Answers for the whole server (no name) and for `service`."""

    def response() -> pb.HealthCheckResponse:
        return pb.HealthCheckResponse(status="SERVING" if plane.ready else "NOT_SERVING")

    async def check(request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        if request.service not in ("", service):
            await context.abort(grpc.StatusCode.NOT_FOUND, f"service {shown(request.service)} is not here")
        return response()

    async def watch(request: pb.HealthCheckRequest, _context: object) -> AsyncIterator[pb.HealthCheckResponse]:
        """The state now and at every change; the specification wants unknown services to be answered, not refused."""
        if request.service not in ("", service):
            yield pb.HealthCheckResponse(status="SERVICE_UNKNOWN")
        last = None
        while True:
            now = response()
            if request.service in ("", service) and now != last:
                yield now
                last = now
            await asyncio.sleep(_SECONDS)

    parse, write = pb.HealthCheckRequest.FromString, pb.HealthCheckResponse.SerializeToString
    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Check": grpc.unary_unary_rpc_method_handler(check, parse, write),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, parse, write),
        },
    )
