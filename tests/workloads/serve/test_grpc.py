"""The Open Inference Protocol over gRPC: Triton's unmodified clients, typed contents, errors, health, generation."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_health.v1 import health_pb2
from grpc_tools import protoc
from modelyard_workloads.serve.grpc_v2 import inference_pb2 as pb
from servers.inprocess import MODEL, VERSION, Running, configure, eventually, running
from servers.relay import relayed
from servers.rows import POISON, RowModel
from tritonclient.grpc import service_pb2 as public
from tritonclient.utils import InferenceServerException

WORKLOADS = Path(__file__).resolve().parents[3] / "workloads"
PROTO = "modelyard_workloads/serve/grpc_v2/inference.proto"
X = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)
Y = [[6, 3], [15, 6]]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    sections: dict[str, Any] = {
        "server": {"host": "127.0.0.1", "port": 0, "grpcPort": 0},
        "limits": {"maxRequestBytes": 200_000, "timeoutSeconds": 5},
    }
    with running(RowModel(), configure(**sections)) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def address(server: Running) -> str:
    return f"127.0.0.1:{server.server.grpc_port}"


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as connected:
        yield connected


def inputs(values: Any = X, module: Any = triton) -> list[Any]:
    tensor = module.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values)
    return [tensor]


SERVICE = "inference.GRPCInferenceService"


def call(address: str, method: str, request: Any, response: Any, service: str = SERVICE) -> Any:
    """One call as generated code makes it, without a client library."""
    with grpc.insecure_channel(address) as channel:
        stub = channel.unary_unary(f"/{service}/{method}", type(request).SerializeToString, response.FromString)
        return stub(request, timeout=60)


def test_every_field_has_the_public_number_and_type() -> None:
    """Against the messages of an independent client."""

    def compare(ours: Any, theirs: Any) -> int:
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated), field
        return len(ours.fields) + sum(compare(n, theirs.nested_types_by_name[n.name]) for n in ours.nested_types)

    messages = pb.DESCRIPTOR.message_types_by_name
    assert sum(compare(ours, public.DESCRIPTOR.message_types_by_name[name]) for name, ours in messages.items()) > 80


def test_the_generated_code_is_as_the_definition_is(tmp_path: Path) -> None:
    """Compared by content: the text differs from one generator to the next."""
    target = tmp_path / "set"
    assert protoc.main(["protoc", f"-I{WORKLOADS}", f"--descriptor_set_out={target}", str(WORKLOADS / PROTO)]) == 0
    (wanted,) = FileDescriptorSet.FromString(target.read_bytes()).file
    found = FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(found)
    for file in (wanted, found):
        for message in file.message_type:
            _forget_json_names(message)
    assert found == wanted, "run `make generate`"


def _forget_json_names(message: Any) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _forget_json_names(nested)


def test_tritons_client_asks_for_everything(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(MODEL) and client.is_model_ready(MODEL, VERSION)
    assert not client.is_model_ready("other")
    assert client.get_server_metadata(as_json=True)["name"] == "modelyard"
    metadata = client.get_model_metadata(MODEL, as_json=True)
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "-1"]}]
    answer = client.infer(MODEL, inputs(), request_id="a-1")
    assert answer.get_response().id == "a-1"
    assert answer.as_numpy("y").tolist() == Y
    assert answer.as_numpy("name").tolist() == [b"3", b"3"]
    statistics = client.get_inference_statistics(MODEL, as_json=True)["model_stats"][0]
    assert int(statistics["inference_count"]) >= 2
    index = client.get_model_repository_index(as_json=True)["models"]
    assert index == [{"name": MODEL, "version": VERSION, "state": "READY"}]


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_tritons_client_compresses(client: triton.InferenceServerClient, compression: str) -> None:
    outputs = [triton.InferRequestedOutput("y")]
    answer = client.infer(MODEL, inputs(), outputs=outputs, compression_algorithm=compression)
    assert answer.as_numpy("y").tolist() == Y
    assert answer.as_numpy("name") is None  # it was not asked for


def stream(address: str, *sent: Any, headers: dict[str, str] | None = None) -> list[Any]:
    """What Triton's client gets on one stream for these inputs."""
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: answers.put(error or result), headers=headers)
        for values in sent:
            client.async_stream_infer(MODEL, inputs(values))
        got = [answers.get(timeout=120) for _ in sent]
        client.stop_stream()
    return got


@pytest.mark.parametrize("wanted", ["", "gzip", "deflate", "br, gzip;q=0"])
def test_replies_are_compressed_for_those_who_ask(address: str, wanted: str) -> None:
    """Counted on the way: what the library says of itself is not seen by either end."""
    rows = np.ones((4000, 3), dtype=np.float32)
    headers = {"accept-encoding": wanted} if wanted else None
    with relayed(address) as relay:
        with triton.InferenceServerClient(relay.address) as client:
            answer = client.infer(MODEL, inputs(rows), outputs=[triton.InferRequestedOutput("y")], headers=headers)
        alone = relay.take()
        small, large = stream(relay.address, X, rows, headers=headers)
        streamed = relay.take()
    assert answer.as_numpy("y").tolist() == large.as_numpy("y").tolist() == [[3.0, 1.0]] * 4000
    assert small.as_numpy("y").tolist() == Y
    plain = rows.nbytes // 3 * 2  # two numbers a row
    if wanted in ("gzip", "deflate"):
        assert alone < plain / 10 and streamed < plain / 2
    else:
        assert alone > plain and streamed > plain


def test_tritons_client_asks_for_the_best_classes(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("y", class_count=1)]
    answer = client.infer(MODEL, inputs(X[:1]), outputs=outputs)
    assert answer.as_numpy("y").tolist() == [[b"6.000000:0:sum"]]


async def test_tritons_asyncio_client_has_many_requests_in_flight(address: str) -> None:
    async with triton_aio.InferenceServerClient(address) as client:
        rows = [np.full((1, 3), i, dtype=np.float32) for i in range(50)]
        answers = await asyncio.gather(*(client.infer(MODEL, inputs(row, triton_aio)) for row in rows))
        assert [answer.as_numpy("y").tolist() for answer in answers] == [[[3 * i, i]] for i in range(50)]


def test_a_stream_survives_a_request_that_is_refused(client: triton.InferenceServerClient) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for values in (X, X * 1e7, X):
        client.async_stream_infer(MODEL, inputs(values))
    first, refused, last = (answers.get(timeout=60) for _ in range(3))
    client.stop_stream()
    assert first[0].as_numpy("y").tolist() == last[0].as_numpy("y").tolist() == Y
    assert "below a million" in str(refused[1])


def typed_request(**changes: Any) -> pb.ModelInferRequest:
    contents = pb.InferTensorContents(fp32_contents=X.ravel().tolist())
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[2, 3], contents=contents)
    return pb.ModelInferRequest(**{"model_name": MODEL, "inputs": [tensor], **changes})


def test_typed_contents_are_answered_with_typed_contents(address: str) -> None:
    answer = call(address, "ModelInfer", typed_request(), pb.ModelInferResponse)
    y, name = answer.outputs
    assert list(y.shape) == [2, 2] and list(y.contents.fp32_contents) == [6, 3, 15, 6]
    assert list(name.contents.bytes_contents) == [b"3", b"3"]
    assert not answer.raw_output_contents


def tensor(**changes: Any) -> pb.ModelInferRequest.InferInputTensor:
    fields: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 1]}
    return pb.ModelInferRequest.InferInputTensor(**{**fields, **changes})


ONE = pb.InferTensorContents(fp32_contents=[1.0])
SHARED = {"shared_memory_region": pb.InferParameter(string_param="r")}
REFUSED: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "another model": ({"model_name": "other"}, grpc.StatusCode.NOT_FOUND, "this server has 'rows'"),
    "another version": ({"model_version": "9"}, grpc.StatusCode.NOT_FOUND, "has no version"),
    "no inputs": ({"inputs": []}, grpc.StatusCode.INVALID_ARGUMENT, "inputs is empty"),
    "no name": ({"inputs": [tensor(name="", contents=ONE)]}, grpc.StatusCode.INVALID_ARGUMENT, "needs a name"),
    "a datatype that nobody has": ({"inputs": [tensor(datatype="FP99")]}, grpc.StatusCode.INVALID_ARGUMENT, "FP99"),
    "too few values": ({"inputs": [tensor()]}, grpc.StatusCode.INVALID_ARGUMENT, "needs 1 values, fp32_contents has 0"),
    "a negative size": ({"inputs": [tensor(shape=[-1, 1])]}, grpc.StatusCode.INVALID_ARGUMENT, "negative dimension"),
    "typed halves": ({"inputs": [tensor(datatype="FP16")]}, grpc.StatusCode.INVALID_ARGUMENT, "raw_input_contents"),
    "a byte of 300": (
        {"inputs": [tensor(datatype="UINT8", contents=pb.InferTensorContents(uint_contents=[300]))]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "outside the range of UINT8",
    ),
    "raw bytes for one of two": (
        {"inputs": [tensor(), tensor(name="z")], "raw_input_contents": [b"1234"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "raw_input_contents has 1 entries for 2 inputs",
    ),
    "raw bytes too short": (
        {"inputs": [tensor()], "raw_input_contents": [b"123"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "takes 4 bytes, got 3",
    ),
    "values twice": (
        {"inputs": [tensor(contents=ONE)], "raw_input_contents": [b"1234"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "both contents and raw_input_contents",
    ),
    "shared memory": (
        {"inputs": [tensor(contents=ONE, parameters=SHARED)]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "shared memory is not supported",
    ),
    "an output that nobody has": (
        {"outputs": [pb.ModelInferRequest.InferRequestedOutputTensor(name="z")]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "output 'z' is unknown",
    ),
    "a row that breaks the model": (
        {"inputs": [tensor(contents=pb.InferTensorContents(fp32_contents=[POISON]))]},
        grpc.StatusCode.INTERNAL,
        "",
    ),
    "a message over the limit": (
        {"raw_input_contents": [bytes(300_000)]},
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "larger than max",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_said_with_the_right_code(address: str, what: str) -> None:
    changes, code, words = REFUSED[what]
    with pytest.raises(grpc.RpcError) as refused:
        call(address, "ModelInfer", typed_request(**changes), pb.ModelInferResponse)
    assert refused.value.code() is code
    details = refused.value.details() or ""
    assert words in details
    assert "poison" not in details


def test_a_client_that_gives_up_frees_its_place() -> None:
    model = RowModel()
    model.gate.clear()
    sections = configure(server={"host": "127.0.0.1", "port": 0, "grpcPort": 0}, batching={"maxBatchSize": 1})
    with running(model, sections) as server:
        address = f"127.0.0.1:{server.server.grpc_port}"
        with triton.InferenceServerClient(address) as client:
            with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
                client.infer(MODEL, inputs(), client_timeout=0.3)
            eventually(lambda: server.traffic.in_flight == 0)
            model.gate.set()
            assert client.infer(MODEL, inputs()).as_numpy("y").tolist() == Y
        metrics = server.call("GET", "/metrics").body.decode()
        assert 'protocol="grpc",route="ModelInfer"' in metrics


def test_health_is_what_kubernetes_and_load_balancers_ask(address: str) -> None:
    states = health_pb2.HealthCheckResponse
    for name in ("", SERVICE):
        request = health_pb2.HealthCheckRequest(service=name)
        assert call(address, "Check", request, states, "grpc.health.v1.Health").status == states.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        call(address, "Check", health_pb2.HealthCheckRequest(service="no"), states, "grpc.health.v1.Health")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_model_that_is_loading_is_unavailable() -> None:
    with running(None, configure(server={"host": "127.0.0.1", "port": 0, "grpcPort": 0})) as server:
        address = f"127.0.0.1:{server.server.grpc_port}"
        assert not call(address, "ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse).ready
        with grpc.insecure_channel(address) as channel:
            watch = channel.unary_stream(
                "/grpc.health.v1.Health/Watch",
                health_pb2.HealthCheckRequest.SerializeToString,
                health_pb2.HealthCheckResponse.FromString,
            )(health_pb2.HealthCheckRequest(), timeout=60)
            assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watch.cancel()
        with pytest.raises(grpc.RpcError) as refused:
            call(address, "ModelInfer", typed_request(), pb.ModelInferResponse)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
