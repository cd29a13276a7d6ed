"""Tensors of the Open Inference Protocol: datatypes, shapes, and values from and to JSON lists and raw bytes.

Shared by every adapter that speaks v2 (REST now, gRPC beside it): nothing here knows HTTP. Everything read here comes
from a client, so every function bounds what it allocates by the bytes that were really sent, and raises InvalidInput
with the tensor's name in the message.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from modelyard_workloads.serve.errors import InvalidInput, shown

Array = npt.NDArray[Any]

# Little-endian as the binary extension defines; BYTES are arrays of Python bytes. BF16 has no numpy type: see BF16.
DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"FP{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    "BYTES": np.dtype(object),
}
BF16 = "BF16"
MAX_RANK = 16
MAX_BYTES_ELEMENTS = 1_000_000  # elements of one BYTES tensor: each costs a Python object
_INTEGERS = {int}
_MAX_ELEMENTS = 1 << 40  # far over any body, far under what overflows 64 bits


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, datatype and shape a model declares; -1 stands for any size, the first dimension is the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    default: bytes | None = None  # every element of an input of BYTES that may be left out


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array with its protocol datatype."""

    name: str
    datatype: str
    array: Array


def parse_datatype(name: str, raw: object) -> str:
    """The datatype of tensor `name`; BF16 is refused with what to send instead."""
    if raw == BF16:
        raise InvalidInput(f"tensor {shown(name)}: datatype BF16 is not supported; send FP32")
    if not isinstance(raw, str) or raw not in DATATYPES:
        raise InvalidInput(f"tensor {shown(name)}: datatype {shown(raw)} is unknown; use one of {', '.join(DATATYPES)}")
    return raw


def parse_shape(name: str, raw: object) -> tuple[int, ...]:
    """The shape of tensor `name`: a list of at most 16 non-negative integers whose product does not overflow."""
    if not isinstance(raw, list) or not {*map(type, raw)} <= _INTEGERS:
        raise InvalidInput(f"tensor {shown(name)}: shape must be a list of integers, got {shown(raw)}")
    if len(raw) > MAX_RANK:
        raise InvalidInput(f"tensor {shown(name)}: shape has {len(raw)} dimensions, at most {MAX_RANK} are possible")
    if raw and min(raw) < 0:
        raise InvalidInput(
            f"tensor {shown(name)}: shape {shown(raw)} has a negative dimension; a request gives real sizes"
        )
    if math.prod(raw) > _MAX_ELEMENTS:
        raise InvalidInput(f"tensor {shown(name)}: shape {shown(raw)} has too many elements")
    return tuple(raw)


def from_json(name: str, datatype: str, shape: tuple[int, ...], data: object) -> Array:
    """Values given as a JSON list, either flat in row-major order or nested as the shape says."""
    flat = _flatten(name, shape, data)
    count = math.prod(shape)
    if len(flat) != count:
        raise InvalidInput(f"tensor {shown(name)}: shape {list(shape)} needs {count} values, data has {len(flat)}")
    kinds = set(map(type, flat))
    if datatype == "BYTES":
        if not kinds <= {str}:
            raise InvalidInput(f"tensor {shown(name)}: data of BYTES must be strings")
        array = np.empty(count, dtype=object)
        array[:] = [text.encode() for text in flat]
        return array.reshape(shape)
    dtype = DATATYPES[datatype]
    if not kinds <= _JSON_KINDS[dtype.kind]:
        raise InvalidInput(f"tensor {shown(name)}: data of {datatype} must be {_JSON_WORDS[dtype.kind]}")
    try:
        # numpy refuses integers that do not fit; floats that do not fit become infinite, which is checked later.
        with np.errstate(over="ignore"):
            return np.array(flat, dtype=dtype).reshape(shape)
    except (OverflowError, ValueError):
        raise InvalidInput(f"tensor {shown(name)}: data has a value outside the range of {datatype}") from None


_JSON_KINDS: dict[str, set[type]] = {"b": {bool}, "u": {int}, "i": {int}, "f": {int, float}}
_JSON_WORDS = {"b": "true or false", "u": "non-negative integers", "i": "integers", "f": "numbers"}


def _flatten(name: str, shape: tuple[int, ...], data: object) -> Sequence[Any]:
    if not isinstance(data, list):
        raise InvalidInput(f"tensor {shown(name)}: data must be a list")
    if len(shape) < 2 or not data or type(data[0]) is not list:
        return data
    level: list[Any] = data
    for inner in shape[1:]:
        # Checked before flattening, so that no list grows beyond what was sent.
        if any(type(row) is not list or len(row) != inner for row in level):
            raise InvalidInput(
                f"tensor {shown(name)}: nested data does not have shape {list(shape)}; nest it so, or send it flat"
            )
        level = list(chain.from_iterable(level))
    return level


def from_bytes(name: str, datatype: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    """Values given as raw bytes (binary tensor extension): little-endian, row-major; a view, not a copy."""
    count = math.prod(shape)
    if datatype == "BYTES":
        return _split_strings(name, count, raw).reshape(shape)
    dtype = DATATYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidInput(
            f"tensor {shown(name)}: {datatype} {list(shape)} takes {count * dtype.itemsize} bytes, got {len(raw)}"
        )
    if datatype == "BOOL":
        bits: Array = np.frombuffer(raw, dtype=np.uint8) != 0
        return bits.reshape(shape)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)


def _split_strings(name: str, count: int, raw: memoryview) -> Array:
    if count > MAX_BYTES_ELEMENTS or 4 * count > len(raw):
        raise InvalidInput(f"tensor {shown(name)}: {count} BYTES elements do not fit in {len(raw)} bytes")
    array = np.empty(count, dtype=object)
    position, end = 0, len(raw)
    for index in range(count):
        if position + 4 > end:
            raise InvalidInput(f"tensor {shown(name)}: BYTES data ends before element {index} of {count}")
        (length,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + length > end:
            raise InvalidInput(f"tensor {shown(name)}: BYTES element {index} says {length} bytes, fewer are left")
        array[index] = bytes(raw[position : position + length])
        position += length
    if position != end:
        raise InvalidInput(f"tensor {shown(name)}: {end - position} bytes follow the last BYTES element")
    return array


def to_bytes(tensor: Tensor) -> bytes:
    """Raw bytes of the binary tensor extension."""
    if tensor.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in tensor.array.ravel())
    return np.ascontiguousarray(tensor.array, dtype=DATATYPES[tensor.datatype]).tobytes()


def to_json(tensor: Tensor) -> Array | list[str]:
    """Flat row-major values as orjson can write them; BYTES as text (UTF-8, anything else is replaced)."""
    if tensor.datatype == "BYTES":
        return [value.decode("utf-8", "replace") for value in tensor.array.ravel()]
    return np.ascontiguousarray(tensor.array, dtype=DATATYPES[tensor.datatype]).reshape(-1)


def is_finite(array: Array) -> bool:
    """Whether all numbers are finite; true where there are none."""
    return array.dtype.kind != "f" or b"\0" not in np.isfinite(array).tobytes()  # half the time of all()


def check_fits(spec: TensorSpec, tensor: Tensor) -> None:
    """Raise InvalidInput unless the tensor has the datatype and a shape that the model declares, and finite values."""
    name, shape = spec.name, tensor.array.shape
    if tensor.datatype != spec.datatype:
        raise InvalidInput(f"input '{name}': datatype {tensor.datatype}, the model takes {spec.datatype}")
    if len(shape) != len(spec.shape) or any(want not in (-1, got) for want, got in zip(spec.shape, shape, strict=True)):
        raise InvalidInput(
            f"input '{name}': shape {list(shape)}, the model takes {list(spec.shape)} (-1 stands for any size)"
        )
    if 0 in shape:
        raise InvalidInput(f"input '{name}': shape {list(shape)} is empty; send at least one row")
    if not is_finite(tensor.array):
        raise InvalidInput(
            f"input '{name}': data has NaN, an infinity, or a value outside the range of {spec.datatype}"
        )
