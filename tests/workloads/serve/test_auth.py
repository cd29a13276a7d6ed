"""API keys: every route of every protocol asks for one, but health."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from modelyard_workloads.serve.auth import OPEN_PATHS, REREAD_SECONDS, ApiKeys
from modelyard_workloads.serve.errors import Unauthorized
from modelyard_workloads.serve.grpc_v2.service import SERVICE
from servers.inprocess import MODEL, Running, configure, eventually, running
from servers.rows import RowModel
from starlette.routing import Route
from tritonclient.grpc import service_pb2

HEALTH = {"ServerLive", "ServerReady"}
KEY = "s3cret-of-the-team"
BEARER = {"Authorization": f"Bearer {KEY}"}
WRONG = [
    {},
    {"Authorization": KEY},
    {"Authorization": "Bearer no"},
    {"Authorization": "Basic s3cret"},
    {"x-api-key": ""},
]


def write(directory: Path, **keys: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name, key in keys.items():
        (directory / name).write_text(f"{key}\n")
    return directory


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Running]:
    keys = write(tmp_path / "keys", team=KEY)
    server = {"host": "127.0.0.1", "port": 0, "grpcPort": 0}
    with running(RowModel(), configure(auth={"keysPath": str(keys)}, server=server)) as made:
        eventually(lambda: made.plane.ready)
        yield made


def all_routes(made: Running) -> list[tuple[str, str]]:
    routes = [route for route in made.app.router.routes if isinstance(route, Route)]
    assert len(routes) > 8
    return [(method, route.path) for route in routes for method in sorted(route.methods or ())]


def test_every_route_but_health_asks_for_a_key(guarded: Running) -> None:
    for method, path in [*all_routes(guarded), ("GET", "/no/such/route"), ("GET", "/v2/health/live/")]:
        target = path.replace("{model}", MODEL).replace("{version}", "r1").replace("{version:str}", "r1")
        for headers in WRONG:
            reply = guarded.call(method, target, b"{}" if method == "POST" else None, headers)
            assert (reply.status == 401) is (path not in OPEN_PATHS), (method, path, headers)
            if reply.status == 401 and method != "HEAD":
                assert reply.headers["www-authenticate"] == "Bearer"
                assert KEY not in reply.error
        for headers in (BEARER, {"x-api-key": KEY}):
            assert guarded.call(method, target, b"{}" if method == "POST" else None, headers).status != 401


def test_every_method_of_grpc_but_health_asks_for_a_key(guarded: Running) -> None:
    port = guarded.server.grpc_port
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def code(method: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
            call = channel.stream_stream(f"/{method}", lambda value: value, lambda value: value)
            try:
                list(call(iter([b""]), metadata=metadata, timeout=60))
            except grpc.RpcError as error:
                found: grpc.StatusCode = error.code()
                return found
            return grpc.StatusCode.OK

        known = set(service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name) - HEALTH
        with_key = {name: code(f"{SERVICE}/{name}", ("x-api-key", KEY)) for name in known}
        served = {name for name, answer in with_key.items() if answer is not grpc.StatusCode.UNIMPLEMENTED}
        assert {"ModelInfer", "ModelStreamInfer", "RepositoryIndex"} <= served
        for name in served:
            assert with_key[name] is not grpc.StatusCode.UNAUTHENTICATED
            assert code(f"{SERVICE}/{name}") is grpc.StatusCode.UNAUTHENTICATED, name
            assert code(f"{SERVICE}/{name}", ("authorization", "Bearer no")) is grpc.StatusCode.UNAUTHENTICATED
        for name in (*(f"{SERVICE}/{name}" for name in HEALTH), "grpc.health.v1.Health/Check"):
            assert code(name) is grpc.StatusCode.OK, name


def test_keys_come_and_go_while_the_server_runs(tmp_path: Path) -> None:
    now = [0.0]
    directory = write(tmp_path / "keys", one="first", two="second")
    (directory / "..data").mkdir()  # what the kubelet keeps beside the files
    keys = ApiKeys(directory, clock=lambda: now[0])
    for key in ("first", "second"):
        keys.check([("x-api-key", key)])
    (directory / "one").unlink()
    write(directory, three="third")
    now[0] = REREAD_SECONDS
    keys.check([("authorization", "bearer third")])
    with pytest.raises(Unauthorized):
        keys.check([("x-api-key", "first")])


def test_without_any_key_nobody_may(tmp_path: Path) -> None:
    keys = ApiKeys(tmp_path / "nowhere")
    for given in ("", "x"):
        with pytest.raises(Unauthorized):
            keys.check([("x-api-key", given)])


def test_the_load_is_told_to_whoever_scales(guarded: Running) -> None:
    before = guarded.call("GET", "/v2/health/load").json()
    guarded.call("GET", f"/v2/models/{MODEL}", headers=BEARER)
    after = guarded.call("GET", "/v2/health/load").json()
    assert set(after) == {"inFlight", "inFlightSeconds", "requests", "tokens"}
    assert after["requests"] == before["requests"] + 1
    assert after["inFlightSeconds"] > before["inFlightSeconds"]
    assert after["inFlight"] == 0
