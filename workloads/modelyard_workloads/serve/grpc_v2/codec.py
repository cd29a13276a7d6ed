"""Messages of the protocol to tensors, and tensors to messages. Pure functions; every error is InvalidInput.

A request's values come typed (`contents`) or raw (`raw_input_contents`, as in the binary extension of REST), and the
answer comes in the same form: Triton's clients send and read raw ones, code generated from the protocol often typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelyard_workloads.serve import tensors, v2_codec
from modelyard_workloads.serve.errors import InvalidInput, shown
from modelyard_workloads.serve.grpc_v2 import inference_pb2 as pb
from modelyard_workloads.serve.tensors import Array, Tensor

# The field of InferTensorContents that has the values of a datatype; FP16 has none.
_FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def decode(request: pb.ModelInferRequest) -> v2_codec.Decoded:
    """The request in the words of the REST codec; `binary`: the answer's values go raw."""
    if not request.inputs:
        raise InvalidInput("inputs is empty; send one tensor for each input of the model")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; one for each, or none at all"
        )
    inputs = [_decode_input(tensor, raw[index] if raw else None) for index, tensor in enumerate(request.inputs)]
    parameters = _values(request.parameters)
    wanted = [{"name": output.name, "parameters": _values(output.parameters)} for output in request.outputs]
    return v2_codec.Decoded(
        id=request.id or None,
        inputs=inputs,
        outputs=v2_codec.parse_outputs(wanted, bool(raw)),
        binary=bool(raw),
        timeout=v2_codec.parse_timeout(parameters),
    )


def is_explanation(request: pb.ModelInferRequest) -> bool:
    """Whether the parameter `explain` is true: the answer is an explanation then."""
    return "explain" in request.parameters and bool(request.parameters["explain"].bool_param)


def asks_why(request: pb.ModelInferRequest) -> bool:
    """`is_explanation`. Raises InvalidInput when the parameter is no bool."""
    if "explain" in request.parameters and request.parameters["explain"].WhichOneof("parameter_choice") != "bool_param":
        value = _values(request.parameters)["explain"]
        raise InvalidInput(f"parameters.explain must be true or false, got {shown(value)}")
    return is_explanation(request)


def _decode_input(message: pb.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    name = message.name
    if not name:
        raise InvalidInput("inputs: every tensor needs a name")
    datatype = tensors.parse_datatype(name, message.datatype)
    shape = tensors.parse_shape(name, list(message.shape))
    v2_codec.refuse_shared_memory(name, _values(message.parameters))
    if raw is not None:
        if message.HasField("contents"):
            raise InvalidInput(f"input {shown(name)} has both contents and raw_input_contents; send one of them")
        return Tensor(name, datatype, tensors.from_bytes(name, datatype, shape, memoryview(raw)))
    field = _FIELDS.get(datatype)
    if field is None:
        raise InvalidInput(f"input {shown(name)}: {datatype} has no typed contents; send raw_input_contents")
    return Tensor(name, datatype, _typed(name, datatype, shape, getattr(message.contents, field)))


def _typed(name: str, datatype: str, shape: tuple[int, ...], values: Sequence[Any]) -> Array:
    count = int(np.prod(shape, dtype=np.int64))
    if len(values) != count:
        raise InvalidInput(
            f"input {shown(name)}: shape {list(shape)} needs {count} values, {_FIELDS[datatype]} has {len(values)}"
        )
    if datatype == "BYTES":
        array = np.empty(count, dtype=object)
        array[:] = list(values)
        return array.reshape(shape)
    dtype = tensors.DATATYPES[datatype]
    wide = np.array(values, dtype=np.int64 if dtype.kind in "iu" and dtype.itemsize < 8 else dtype)
    narrow = wide.astype(dtype)
    if (narrow != wide).any() and dtype.kind in "iu":
        raise InvalidInput(f"input {shown(name)}: contents has a value outside the range of {datatype}")
    return narrow.reshape(shape)


def encode(response: pb.ModelInferResponse, outputs: Sequence[Tensor], *, raw: bool) -> pb.ModelInferResponse:
    """`response` with the outputs put in; BYTES and numbers, raw or typed (FP16 is always raw, and then all are)."""
    raw = raw or any(tensor.datatype not in _FIELDS for tensor in outputs)
    for tensor in outputs:
        message = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.array.shape)
        if raw:
            response.raw_output_contents.append(tensors.to_bytes(tensor))
        else:
            getattr(message.contents, _FIELDS[tensor.datatype]).extend(tensor.array.ravel().tolist())
    return response


def _values(parameters: Mapping[str, pb.InferParameter]) -> dict[str, Any]:
    """Parameters as JSON has them; one without a value is None."""
    chosen = {name: (value, value.WhichOneof("parameter_choice")) for name, value in parameters.items()}
    return {name: getattr(value, field) if field else None for name, (value, field) in chosen.items()}
