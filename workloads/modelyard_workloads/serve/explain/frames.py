"""What the server and the process that explains say to each other, over pipes: JSON, then raw tensors."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import orjson

from modelyard_workloads.serve import tensors
from modelyard_workloads.serve.errors import InferenceFailed, InvalidInput
from modelyard_workloads.serve.explain.explanation import Explanation
from modelyard_workloads.serve.tensors import DATATYPES, Array, Tensor

_SIZES = struct.Struct("<QQ")  # bytes of the JSON, bytes behind it
_FIELDS = ("target", "output", "baseline", "delta", "steps")


def write_frame(stream: BinaryIO, head: object, raw: Sequence[bytes] = ()) -> None:
    """Send one. Raises OSError when nobody reads."""
    text, data = orjson.dumps(head), b"".join(raw)
    stream.write(_SIZES.pack(len(text), len(data)))
    stream.write(text)
    stream.write(data)
    stream.flush()


def read_frame(stream: BinaryIO) -> tuple[Any, memoryview]:
    """The next one. Raises EOFError when the other side is gone."""
    text, data = _SIZES.unpack(_exactly(stream, _SIZES.size))
    return orjson.loads(_exactly(stream, text)), memoryview(_exactly(stream, data))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise EOFError
    return data


def write_ready(stream: BinaryIO) -> None:
    """The first word of the process that explains: it has its model, and reads requests."""
    write_frame(stream, {"ready": True})


def read_ready(stream: BinaryIO) -> None:
    """Wait for it. Raises EOFError when the process ended."""
    read_frame(stream)


def write_request(stream: BinaryIO, arrays: Mapping[str, Array], seconds: float) -> None:
    """Inputs that passed the checks, and how long the answer may take."""
    named = [Tensor(name, _datatype(array), array) for name, array in arrays.items()]
    raw = [tensors.to_bytes(tensor) for tensor in named]
    described = [
        {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.array.shape, "size": len(data)}
        for tensor, data in zip(named, raw, strict=True)
    ]
    write_frame(stream, {"tensors": described, "seconds": seconds}, raw)


def read_request(stream: BinaryIO) -> tuple[dict[str, Array], float]:
    """What `write_request` wrote."""
    head, raw = read_frame(stream)
    arrays, position = {}, 0
    for entry in head["tensors"]:
        piece = raw[position : position + entry["size"]]
        position += entry["size"]
        arrays[entry["name"]] = tensors.from_bytes(entry["name"], entry["datatype"], tuple(entry["shape"]), piece)
    return arrays, head["seconds"]


def _datatype(array: Array) -> str:
    return next(name for name, dtype in DATATYPES.items() if dtype == array.dtype)


def write_explanations(stream: BinaryIO, explanations: Sequence[Explanation]) -> None:
    """The answer."""
    head = [
        {name: getattr(one, name) for name in _FIELDS}
        | {"shape": one.attributions.shape, "features": dict(one.features)}
        for one in explanations
    ]
    write_frame(stream, {"rows": head}, [one.attributions.astype("<f4").tobytes() for one in explanations])


def write_refusal(stream: BinaryIO, message: str, *, invalid: bool) -> None:
    """An error as the answer; `invalid`: the input is to blame, and the client may read why."""
    write_frame(stream, {"error": message, "invalid": invalid})


def read_explanations(stream: BinaryIO) -> list[Explanation]:
    """The answer. Raises InvalidInput and InferenceFailed for a refusal, EOFError when the process ended."""
    head, raw = read_frame(stream)
    if "error" in head:
        raise (InvalidInput if head["invalid"] else InferenceFailed)(head["error"])
    found, position = [], 0
    for entry in head["rows"]:
        shape, features = tuple(entry.pop("shape")), entry.pop("features")
        size = 4 * int(np.prod(shape))
        values = np.frombuffer(raw[position : position + size], dtype="<f4").reshape(shape)
        position += size
        found.append(Explanation(**entry, attributions=values, features=features))
    return found
