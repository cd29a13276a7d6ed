"""Which protocols a configuration asks for, around one data plane."""

from __future__ import annotations

from modelyard_workloads.serve.app import Application
from modelyard_workloads.serve.config import ServeConfig
from modelyard_workloads.serve.dataplane import DataPlane
from modelyard_workloads.serve.metrics import ServerMetrics
from modelyard_workloads.serve.server import Beside, Served
from modelyard_workloads.serve.traffic import Traffic


def serve(plane: DataPlane, metrics: ServerMetrics, config: ServeConfig) -> Served:
    """HTTP always, gRPC where it has a port; its libraries are imported only then."""
    traffic = Traffic()
    grpc: Beside | None = None
    if config.server.grpc_port is not None:
        from modelyard_workloads.serve.grpc_v2.service import GrpcServer

        grpc = GrpcServer(plane, metrics, config.limits, traffic)
    app = Application(plane, metrics, config.limits, traffic)
    return Served(app=app, plane=plane, traffic=traffic, grpc=grpc)
