"""Which protocols a configuration asks for, around one data plane."""

from __future__ import annotations

from modelyard_workloads.serve.app import Application
from modelyard_workloads.serve.auth import ApiKeys
from modelyard_workloads.serve.batcher import Batcher, BatchLimits, BatchObserver, InferenceThread
from modelyard_workloads.serve.config import ServeConfig
from modelyard_workloads.serve.dataplane import DataPlane, LoadedModel
from modelyard_workloads.serve.explain.process import ExplainerProcess
from modelyard_workloads.serve.metrics import ServerMetrics
from modelyard_workloads.serve.runtimes import GENERATIVE, Runtime
from modelyard_workloads.serve.server import Beside, Served
from modelyard_workloads.serve.traffic import Traffic


def serve(plane: DataPlane, metrics: ServerMetrics, config: ServeConfig) -> Served:
    """HTTP always, gRPC where it has a port; its libraries are imported only then."""
    traffic = Traffic()
    keys = ApiKeys(config.auth.keys_path) if config.auth is not None else None
    grpc: Beside | None = None
    if config.server.grpc_port is not None:
        from modelyard_workloads.serve.grpc_v2.service import GrpcServer

        grpc = GrpcServer(plane, metrics, config.limits, traffic, keys)
    app = Application(plane, metrics, config.limits, traffic, keys)
    return Served(app=app, plane=plane, traffic=traffic, grpc=grpc)


def loaded_model(
    runtime: Runtime,
    origin: tuple[str, int],
    config: ServeConfig,
    thread: InferenceThread,
    observers: tuple[BatchObserver, ServerMetrics],
) -> LoadedModel:
    """A model that may answer, with a batcher or an engine; `origin`: digest and training step. On the event loop."""
    digest, step = origin
    observer, metrics = observers
    explainer = None
    if config.explain is not None and config.explain.enabled:
        explainer = ExplainerProcess(config, metrics.explained)
    limits, rows = config.limits, config.batching.max_batch_size
    if runtime.task in GENERATIVE:
        from modelyard_workloads.serve.generation.admission import Admission
        from modelyard_workloads.serve.generation.runtime import GenerationDispatch, GenerationRuntime
        from modelyard_workloads.serve.generation.service import GenerationService

        assert isinstance(runtime, GenerationRuntime)
        place = (metrics.registry, config.model.name)
        admission = Admission(limits.max_queue, limits.max_wait_seconds)
        service = GenerationService(runtime.engine, runtime.language, thread, admission, place, observer)
        dispatch = GenerationDispatch(service)
        return LoadedModel(
            digest=digest, step=step, runtime=runtime, batcher=dispatch, generation=service, explainer=explainer
        )
    batch_limits = BatchLimits(
        max_rows=rows,
        max_latency=config.batching.max_latency_milliseconds / 1000,
        max_queue=limits.max_queue,
        max_requests=limits.container_concurrency or rows,
        max_wait=limits.max_wait_seconds,
    )
    batcher = Batcher(runtime.predict, batch_limits, thread, observer)
    return LoadedModel(digest=digest, step=step, runtime=runtime, batcher=batcher, explainer=explainer)
