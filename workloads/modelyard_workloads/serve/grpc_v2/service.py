"""The gRPC server: the methods of inference.GRPCInferenceService, one table from errors to codes, counting.

What is not served (shared memory, loading and unloading, Triton's model configuration) answers UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from time import monotonic
from typing import Any, NoReturn

import grpc
import grpc.aio

from modelyard_workloads.serve import errors
from modelyard_workloads.serve.auth import ApiKeys
from modelyard_workloads.serve.config import LimitsSection
from modelyard_workloads.serve.dataplane import DataPlane, InferRequest
from modelyard_workloads.serve.grpc_v2 import codec
from modelyard_workloads.serve.grpc_v2 import inference_pb2 as pb
from modelyard_workloads.serve.grpc_v2.authentication import KeyCheck
from modelyard_workloads.serve.grpc_v2.compression import StreamCompression, compressing
from modelyard_workloads.serve.grpc_v2.health import health_handler
from modelyard_workloads.serve.metrics import ServerMetrics
from modelyard_workloads.serve.tensors import TensorSpec
from modelyard_workloads.serve.traffic import Traffic
from modelyard_workloads.serve.v2 import EXTENSIONS, NAME, PLATFORM, choose_classes, explanation_query, server_version

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
Context = grpc.aio.ServicerContext[Any, Any]

CODES: dict[type[errors.ServeError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthorized: grpc.StatusCode.UNAUTHENTICATED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.PayloadTooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.InferenceFailed: grpc.StatusCode.INTERNAL,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.Saturated: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_EXPLAIN = "ModelInfer explain"  # in metrics: it takes hundreds of times as long
_OVERHEAD_BYTES = 65_536  # of a message, beside its tensors


class GrpcServer:
    """One port, one data plane. `start` and `stop` belong to the event loop that serves HTTP too."""

    def __init__(
        self,
        plane: DataPlane,
        metrics: ServerMetrics,
        limits: LimitsSection,
        traffic: Traffic,
        keys: ApiKeys | None = None,
    ) -> None:
        self._keys = keys
        self._plane = plane
        self._metrics = metrics
        self._limits = limits
        self._traffic = traffic
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Bind (port 0: any) and serve; the port. Raises RuntimeError when it is taken."""
        self._server = grpc.aio.server(
            interceptors=() if self._keys is None else (KeyCheck(self._keys),),
            options=(
                ("grpc.max_receive_message_length", self._limits.max_request_bytes + _OVERHEAD_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                # clients that keep connections alive by pings are no attackers
                ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ),
            # a request is held whole in memory, so their number is bounded like the queue's
            maximum_concurrent_rpcs=self._limits.max_queue,
        )
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, self._methods()),
                health_handler(self._plane, SERVICE),
            )
        )
        bound = self._server.add_insecure_port(f"{host}:{port}")
        await self._server.start()
        return bound

    async def stop(self, seconds: float) -> None:
        """Refuse new calls, give those in flight `seconds`."""
        if self._server is not None:
            await self._server.stop(seconds)

    def _methods(self) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        unary: dict[str, tuple[Callable[[Any, float], Awaitable[Any]], Any]] = {
            "ServerLive": (self._live, pb.ServerLiveRequest),
            "ServerReady": (self._ready, pb.ServerReadyRequest),
            "ModelReady": (self._model_ready, pb.ModelReadyRequest),
            "ServerMetadata": (self._server_metadata, pb.ServerMetadataRequest),
            "ModelMetadata": (self._model_metadata, pb.ModelMetadataRequest),
            "ModelInfer": (self.infer, pb.ModelInferRequest),
            "ModelStatistics": (self._statistics, pb.ModelStatisticsRequest),
            "RepositoryIndex": (self._repository_index, pb.RepositoryIndexRequest),
        }
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            name: grpc.unary_unary_rpc_method_handler(
                compressing(self._counted(name, method)), request.FromString, _serialize
            )
            for name, (method, request) in unary.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, pb.ModelInferRequest.FromString, _serialize
        )
        return handlers

    def _counted(
        self, name: str, method: Callable[[Any, float], Awaitable[Any]]
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        """Errors to codes in one place; requests in flight and metrics as for HTTP."""

        async def call(request: Any, context: Context) -> Any:
            probe = name in ("ServerLive", "ServerReady", "ModelReady")
            started = monotonic()
            code = grpc.StatusCode.CANCELLED
            if not probe:
                self._traffic.begin()
            try:
                answer = await method(request, self._deadline(started, context.time_remaining()))
                code = grpc.StatusCode.OK
                return answer
            except errors.ServeError as error:
                code = CODES.get(type(error), grpc.StatusCode.INTERNAL)
                await _abort(context, code, str(error))
            except asyncio.CancelledError:
                raise
            except Exception as error:
                log.error("unexpected %s", type(error).__name__, exc_info=errors.without_text(error))
                code = grpc.StatusCode.INTERNAL
                await _abort(context, code, "internal error")
            finally:
                seconds = monotonic() - started
                if not probe:
                    self._traffic.end(started + seconds)
                route = _EXPLAIN if name == "ModelInfer" and codec.is_explanation(request) else name
                if route == "ModelInfer":
                    self._plane.statistics.request(code is grpc.StatusCode.OK, seconds)
                self._metrics.request("grpc", route, code.value[0], seconds)

        return call

    def _deadline(self, now: float, remaining: float | None) -> float:
        seconds = self._limits.timeout_seconds
        return now + (seconds if remaining is None else min(seconds, remaining))

    async def infer(self, request: pb.ModelInferRequest, deadline: float) -> pb.ModelInferResponse:
        """One inference."""
        plane = self._plane
        plane.model(request.model_name, request.model_version)
        if codec.asks_why(request):
            return await self._explain(request, deadline)
        decoded = codec.decode(request)
        if decoded.timeout is not None:
            deadline = min(deadline, monotonic() + decoded.timeout)
        answer = await plane.infer(
            InferRequest(
                model=request.model_name,
                version=request.model_version,
                inputs=decoded.inputs,
                outputs=None if decoded.outputs is None else [output.name for output in decoded.outputs],
                deadline=deadline,
            )
        )
        labels = plane.model(answer.model).runtime.labels
        response = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=request.id)
        return codec.encode(response, choose_classes(answer.outputs, decoded.outputs, labels), raw=decoded.binary)

    async def _explain(self, request: pb.ModelInferRequest, deadline: float) -> pb.ModelInferResponse:
        """Why the model answers so: the request of an inference, the explanation as tensors."""
        self._plane.explainer(request.model_name, request.model_version)
        decoded = codec.decode(request)
        query = explanation_query(request.model_name, request.model_version, decoded, deadline)
        answer = await self._plane.explain_as_tensors(query)
        response = pb.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=request.id)
        return codec.encode(response, answer.outputs, raw=decoded.binary)

    async def _stream(
        self, requests: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Requests one after the other on one call; an error is an answer, not the end of the stream."""
        infer = self._counted("ModelInfer", self.infer)
        compression = StreamCompression(context)
        async for request in requests:
            collected = _Collected(context)
            try:
                answer = await infer(request, collected)  # type: ignore[arg-type]
            except _Refused as refused:
                failed = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
                reply = pb.ModelStreamInferResponse(error_message=str(refused), infer_response=failed)
            else:
                reply = pb.ModelStreamInferResponse(infer_response=answer)
            await compression.before(reply)
            yield reply

    async def _live(self, _: pb.ServerLiveRequest, _deadline: float) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _ready(self, _: pb.ServerReadyRequest, _deadline: float) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._plane.ready)

    async def _model_ready(self, request: pb.ModelReadyRequest, _deadline: float) -> pb.ModelReadyResponse:
        """A model that is not here is not ready: no error, as with Triton."""
        try:
            self._plane.check_name(request.name, request.version)
        except errors.NotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=self._plane.ready)

    async def _server_metadata(self, _: pb.ServerMetadataRequest, _deadline: float) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name=NAME, version=server_version(), extensions=EXTENSIONS)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, _deadline: float) -> pb.ModelMetadataResponse:
        runtime = self._plane.model(request.name, request.version).runtime
        return pb.ModelMetadataResponse(
            name=self._plane.name,
            versions=[self._plane.version],
            platform=PLATFORM,
            inputs=[_metadata(spec) for spec in runtime.inputs],
            outputs=[_metadata(spec) for spec in runtime.outputs],
        )

    async def _statistics(self, request: pb.ModelStatisticsRequest, _deadline: float) -> pb.ModelStatisticsResponse:
        plane, stats = self._plane, self._plane.statistics
        if request.name:
            plane.check_name(request.name, request.version)
        entry = pb.ModelStatistics(
            name=plane.name,
            version=plane.version,
            last_inference=stats.last_ms,
            inference_count=stats.inferences,
            execution_count=stats.executions,
            inference_stats=pb.InferStatistics(
                success=pb.StatisticDuration(count=stats.successes, ns=stats.success_ns),
                fail=pb.StatisticDuration(count=stats.failures, ns=stats.failure_ns),
                queue=pb.StatisticDuration(count=stats.computed, ns=stats.queue_ns),
                compute_infer=pb.StatisticDuration(count=stats.computed, ns=stats.compute_ns),
            ),
            batch_stats=[
                pb.InferBatchStatistics(batch_size=rows, compute_infer=pb.StatisticDuration(count=count, ns=total))
                for rows, (count, total) in sorted(stats.batches.items())
            ],
        )
        return pb.ModelStatisticsResponse(model_stats=[entry])

    async def _repository_index(
        self, request: pb.RepositoryIndexRequest, _deadline: float
    ) -> pb.RepositoryIndexResponse:
        plane = self._plane
        if request.ready and plane.state != "READY":
            return pb.RepositoryIndexResponse()
        reason = "" if plane.state == "READY" else plane.why_not_ready
        entry = pb.RepositoryIndexResponse.ModelIndex(
            name=plane.name, version=plane.version, state=plane.state, reason=reason
        )
        return pb.RepositoryIndexResponse(models=[entry])


class _Refused(Exception):
    """What `abort` would have sent."""


class _Collected:
    """Stands for the context of one request in a stream: an abort is raised instead of ending the call."""

    def __init__(self, context: Context) -> None:
        self.time_remaining = context.time_remaining

    async def abort(self, _code: grpc.StatusCode, message: str) -> NoReturn:
        """Raise the message."""
        raise _Refused(message)


async def _abort(context: Context, code: grpc.StatusCode, message: str) -> NoReturn:
    await context.abort(code, message)
    raise AssertionError("abort raises")


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=spec.shape)


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
