"""grpcio alone: a server that reads nothing of a call and answers with prepared bytes.

`grpc_echo.py PORT loop|threads`. What it costs is what no server of grpcio can go below, ours or a peer's.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import uvloop
from modelyard_workloads.serve.grpc_v2 import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
ANSWER: bytes = pb.ModelInferResponse(
    model_name="classifier", model_version="r1", raw_output_contents=[bytes(40)]
).SerializeToString()


async def _on_the_loop(_: bytes, _context: Any) -> bytes:
    return ANSWER


def _in_a_thread(_: bytes, _context: Any) -> bytes:
    return ANSWER


def _handlers(method: Any) -> tuple[grpc.GenericRpcHandler, ...]:
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
        method
    )  # no deserializer: bytes as they came
    return (grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),)


async def _serve(address: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(_handlers(_on_the_loop))
    server.add_insecure_port(address)
    await server.start()
    await asyncio.Event().wait()


def main() -> None:
    """Serve until killed."""
    address, how = f"127.0.0.1:{sys.argv[1]}", sys.argv[2]
    if how == "loop":
        uvloop.run(_serve(address))
        return
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(_handlers(_in_a_thread))
    server.add_insecure_port(address)
    server.start()
    signal.pause()


if __name__ == "__main__":
    main()
