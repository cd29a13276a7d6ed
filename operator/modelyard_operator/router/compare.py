"""Whether two answers to the same request are alike: the same decision, numbers within a tolerance. Pure.

Names of models and versions, ids and times always differ and are not compared. Of a vector of scores it is enough that
the same place has the largest: a model that was trained on does not give the same probabilities, and need not.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

from modelyard_operator.router.config import Tolerance

IGNORED = {"id", "model", "model_name", "model_version", "created", "usage", "system_fingerprint", "parameters"}
_FORMATS = {"FP32": "f", "FP64": "d", "INT64": "q", "INT32": "i", "INT16": "h", "INT8": "b", "UINT8": "B", "FP16": "e"}


def alike(one: bytes, one_json: int | None, other: bytes, other_json: int | None, tolerance: Tolerance) -> bool:
    """Whether two bodies are alike. `*_json` is the Inference-Header-Content-Length: binary tensors follow there."""
    try:
        first, second = _decoded(one, one_json), _decoded(other, other_json)
    except (ValueError, KeyError, TypeError, struct.error):
        return one == other
    return _same(first, second, tolerance)


def _decoded(body: bytes, json_length: int | None) -> Any:
    value = json.loads(body[:json_length] if json_length is not None else body)
    if json_length is None:
        return value
    rest = memoryview(body)[json_length:]
    for output in value["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            continue
        piece, rest = rest[:size], rest[size:]
        code = _FORMATS.get(output["datatype"])
        width = struct.calcsize(f"<{code}") if code else 1
        output["data"] = list(struct.unpack(f"<{len(piece) // width}{code}", piece)) if code else bytes(piece).hex()
    return value


def _same(one: Any, other: Any, tolerance: Tolerance) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if _is_tensor(one) and _is_tensor(other):
            return _same_tensor(one, other, tolerance)
        keys = (one.keys() | other.keys()) - IGNORED
        return all(key in one and key in other and _same(one[key], other[key], tolerance) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        if _is_numbers(one) and _is_numbers(other):
            return len(one) == len(other) and (_close(one, other, tolerance) or _same_choice(one, other))
        return len(one) == len(other) and all(_same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return _close([one], [other], tolerance)
    return bool(one == other)


def _is_tensor(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("data"), list) and isinstance(value.get("shape"), list)


def _is_numbers(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def _same_tensor(one: Mapping[str, Any], other: Mapping[str, Any], tolerance: Tolerance) -> bool:
    if (one.get("name"), one["shape"]) != (other.get("name"), other["shape"]):
        return False
    a, b = one["data"], other["data"]
    if not (_is_numbers(a) and _is_numbers(b)):
        return _same(a, b, tolerance)
    if _close(a, b, tolerance):
        return True
    width = one["shape"][-1] if len(one["shape"]) > 1 else 0
    if width < 2 or not str(one.get("datatype", "")).startswith("FP") or len(a) != len(b):
        return False
    return all(_same_choice(a[i : i + width], b[i : i + width]) for i in range(0, len(a), width))


def _close(one: list[Any], other: list[Any], tolerance: Tolerance) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=tolerance.rtol, abs_tol=tolerance.atol) for a, b in zip(one, other, strict=True)
    )


def _same_choice(one: list[Any], other: list[Any]) -> bool:
    """Whether the largest of at least two scores stands at the same place."""
    if len(one) < 2 or not any(isinstance(v, float) for v in (*one, *other)):
        return False
    return one.index(max(one)) == other.index(max(other))
