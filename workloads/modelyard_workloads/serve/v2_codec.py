"""Open Inference Protocol v2 over REST: bytes of a request to tensors, tensors to bytes of a reply.

JSON, or JSON followed by raw tensors (binary tensor extension: `Inference-Header-Content-Length` is the length of the
JSON part, `binary_data_size` of each tensor follows in order). Pure functions; every error is InvalidInput.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from modelyard_workloads.serve import tensors
from modelyard_workloads.serve.errors import InvalidInput, shown
from modelyard_workloads.serve.tensors import Tensor

# What JSON may cost in memory: an empty list takes 2 bytes to write and 56 to hold.
_MAX_CONTAINERS_AND_STRINGS = 2_000_000
_MAX_VALUES = 8_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedOutput:
    """One entry of the request's `outputs`."""

    name: str
    binary: bool
    classes: int  # > 0: the classification extension, so many of the best


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A request; `outputs` None: all, as `binary` says; `timeout` in seconds, None: the server's."""

    id: str | None
    inputs: list[Tensor]
    outputs: list[WantedOutput] | None
    binary: bool
    timeout: float | None


def decode(body: bytes, header_length: str | None) -> Decoded:
    """Parse the body of an infer request; `header_length` is the value of Inference-Header-Content-Length."""
    view = memoryview(body)
    size = _json_size(len(body), header_length)
    request = _object("the body", load_json(body if size == len(body) else body[:size]))
    parameters = _object("parameters", request.get("parameters", {}))
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InvalidInput(f"id must be a string, got {shown(identity)}")
    raw_inputs = request.get("inputs")
    if not isinstance(raw_inputs, list) or not raw_inputs:
        raise InvalidInput('inputs must be a list of tensors: [{"name", "shape", "datatype", "data"}]')
    inputs: list[Tensor] = []
    position = size
    for index, raw in enumerate(raw_inputs):
        tensor, position = _decode_input(_object(f"inputs[{index}]", raw), view, position)
        inputs.append(tensor)
    if position != len(body):
        raise InvalidInput(f"{len(body) - position} bytes follow the last tensor; see binary_data_size")
    binary = _flag("parameters.binary_data_output", parameters.get("binary_data_output", False))
    outputs = parse_outputs(request.get("outputs"), binary)
    return Decoded(id=identity, inputs=inputs, outputs=outputs, binary=binary, timeout=parse_timeout(parameters))


def _json_size(body_size: int, header_length: str | None) -> int:
    if header_length is None:
        return body_size
    if not (header_length.isascii() and header_length.isdecimal()) or int(header_length) > body_size:
        raise InvalidInput(
            f"Inference-Header-Content-Length is {shown(header_length)}; it must be the length of the JSON part"
            f" of the body, which has {body_size} bytes"
        )
    return int(header_length)


def load_json(text: bytes) -> Any:
    """Parse JSON whose cost in memory is bounded. Raises InvalidInput."""
    if len(text) > _MAX_CONTAINERS_AND_STRINGS and (  # a shorter one cannot have as many
        text.count(b"[") + text.count(b"{") + text.count(b'"') // 2 > _MAX_CONTAINERS_AND_STRINGS
        or text.count(b",") > _MAX_VALUES
    ):
        raise InvalidInput("the JSON has too many values; send large tensors as binary data")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error.msg} at byte {error.pos}") from None


def _object(what: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} must be an object, got {shown(value)}")
    return value


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{what} must be true or false, got {shown(value)}")
    return value


def parse_timeout(parameters: Mapping[str, Any]) -> float | None:
    """Seconds from `timeout` in microseconds, as Triton's clients send it; 0 = the server's."""
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    if type(value) is not int or value < 0:
        raise InvalidInput(f"parameters.timeout must be microseconds as a positive integer, got {shown(value)}")
    return value / 1e6


def _decode_input(raw: dict[str, Any], body: memoryview, position: int) -> tuple[Tensor, int]:
    name = raw.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"inputs: name must be a string, got {shown(name)}")
    datatype = tensors.parse_datatype(name, raw.get("datatype"))
    shape = tensors.parse_shape(name, raw.get("shape"))
    parameters = raw.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidInput(f"parameters of input {shown(name)} must be an object, got {shown(parameters)}")
    refuse_shared_memory(name, parameters)
    size = parameters.get("binary_data_size")
    if size is None:
        if "data" not in raw:
            raise InvalidInput(f"input {shown(name)} has neither data nor binary_data_size")
        return Tensor(name, datatype, tensors.from_json(name, datatype, shape, raw["data"])), position
    if "data" in raw:
        raise InvalidInput(f"input {shown(name)} has both data and binary_data_size")
    if type(size) is not int or not 0 <= size <= len(body) - position:
        raise InvalidInput(
            f"input {shown(name)}: binary_data_size is {shown(size)}, {len(body) - position} bytes are left in the"
            " body; Inference-Header-Content-Length must give the length of the JSON part"
        )
    array = tensors.from_bytes(name, datatype, shape, body[position : position + size])
    return Tensor(name, datatype, array), position + size


def refuse_shared_memory(name: str, parameters: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a tensor that is said to be in memory that client and server share."""
    if "shared_memory_region" in parameters:
        raise InvalidInput(f"tensor {shown(name)}: shared memory is not supported; send data or binary data")


def parse_outputs(raw: object, binary: bool) -> list[WantedOutput] | None:
    """The request's `outputs` as JSON has them; None for all. `binary`: how those come that do not say it."""
    if raw is None or raw == []:
        return None
    if not isinstance(raw, list):
        raise InvalidInput(f'outputs must be a list like [{{"name": "…"}}], got {shown(raw)}')
    wanted = []
    for index, entry in enumerate(raw):
        output = _object(f"outputs[{index}]", entry)
        name = output.get("name")
        if not isinstance(name, str):
            raise InvalidInput(f"outputs[{index}].name must be a string, got {shown(name)}")
        parameters = _object(f"outputs[{index}].parameters", output.get("parameters", {}))
        refuse_shared_memory(name, parameters)
        classes = parameters.get("classification", 0)
        if type(classes) is not int or classes < 0:
            raise InvalidInput(
                f"output {shown(name)}: classification must be a number of classes, got {shown(classes)}"
            )
        flag = _flag(f"outputs[{index}].parameters.binary_data", parameters.get("binary_data", binary))
        wanted.append(WantedOutput(name=name, binary=flag, classes=classes))
    return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Bytes of a reply; `json_size` None when the body is JSON alone."""

    body: bytes
    json_size: int | None


def encode(head: dict[str, Any], outputs: Sequence[Tensor], binary: Sequence[bool]) -> Encoded:
    """The reply: `head` (model_name, id, …) with the outputs, those marked `binary` as raw bytes behind the JSON."""
    entries: list[dict[str, Any]] = []
    raw: list[bytes] = []
    for tensor, as_bytes in zip(outputs, binary, strict=True):
        entry: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.array.shape),
        }
        if as_bytes:
            data = tensors.to_bytes(tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            entry["data"] = tensors.to_json(tensor)
        entries.append(entry)
    text = orjson.dumps({**head, "outputs": entries}, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return Encoded(body=text, json_size=None)
    return Encoded(body=b"".join([text, *raw]), json_size=len(text))
