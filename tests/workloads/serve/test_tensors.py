"""Tensors from and to JSON and raw bytes, with everything a hostile client may write."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from modelyard_workloads.serve import tensors
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.tensors import DATATYPES, Tensor, TensorSpec

NUMERIC = sorted(set(DATATYPES) - {"BYTES"})


@pytest.mark.parametrize("datatype", NUMERIC)
def test_every_numeric_datatype_survives_json_and_binary(datatype: str) -> None:
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(DATATYPES[datatype])
    tensor = Tensor("t", datatype, array)
    flat = tensors.to_json(tensor)
    assert isinstance(flat, np.ndarray)
    for data in (flat.tolist(), array.tolist()):
        again = tensors.from_json("t", datatype, (2, 3), data)
        assert again.dtype == DATATYPES[datatype]
        np.testing.assert_array_equal(again, array)
    binary = tensors.from_bytes("t", datatype, (2, 3), memoryview(tensors.to_bytes(tensor)))
    assert binary.dtype == DATATYPES[datatype]
    np.testing.assert_array_equal(binary, array)


@given(hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=4), elements=st.floats(-1e6, 1e6, width=32)))
def test_any_float_tensor_is_the_same_flat_nested_and_binary(array: np.ndarray) -> None:
    tensor = Tensor("t", "FP32", array)
    shape = array.shape
    np.testing.assert_array_equal(tensors.from_json("t", "FP32", shape, array.tolist()), array)
    np.testing.assert_array_equal(tensors.from_json("t", "FP32", shape, array.ravel().tolist()), array)
    np.testing.assert_array_equal(tensors.from_bytes("t", "FP32", shape, memoryview(tensors.to_bytes(tensor))), array)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=10))
def test_any_strings_survive_the_binary_framing(values: list[bytes]) -> None:
    array = np.array([None] * len(values), dtype=object)
    array[:] = values
    raw = tensors.to_bytes(Tensor("t", "BYTES", array))
    assert tensors.from_bytes("t", "BYTES", (len(values),), memoryview(raw)).tolist() == values


@given(st.binary(max_size=64), st.lists(st.integers(0, 5), max_size=3), st.sampled_from(sorted(DATATYPES)))
def test_any_bytes_give_a_tensor_of_the_shape_or_a_clear_error(raw: bytes, shape: list[int], datatype: str) -> None:
    try:
        array = tensors.from_bytes("t", datatype, tuple(shape), memoryview(raw))
    except InvalidInput as error:
        assert "'t'" in str(error)
    else:
        assert array.shape == tuple(shape)


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "message"),
    [
        ("FP32", [2], [1.0], "needs 2 values, data has 1"),
        ("FP32", [2], [1.0, "2"], "must be numbers"),
        ("FP32", [2], [1.0, None], "must be numbers"),
        ("FP32", [2], [True, False], "must be numbers"),
        ("FP32", [1], ["x" * 1_000_000], "must be numbers"),
        ("FP32", [2, 2], [[1, 2], [3]], "does not have shape"),
        ("FP32", [2, 2], [[1, 2], 3], "does not have shape"),
        ("FP32", [2, 2], [[[1], [2]], [[3], [4]]], "must be numbers"),
        ("FP32", [4], [[1, 2], [3, 4]], "needs 4 values"),
        ("FP32", [1], {"0": 1}, "must be a list"),
        ("INT32", [1], [1.5], "must be integers"),
        ("INT32", [1], [2**31], "outside the range"),
        ("INT64", [1], [2**63], "outside the range"),
        ("UINT8", [1], [256], "outside the range"),
        ("UINT8", [1], [-1], "outside the range"),
        ("UINT64", [1], [-1], "outside the range"),
        ("BOOL", [1], [1], "true or false"),
        ("BYTES", [1], [1], "must be strings"),
    ],
)
def test_json_data_that_does_not_fit_is_refused_with_the_reason(
    datatype: str, shape: list[int], data: object, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensors.from_json("t", datatype, tuple(shape), data)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([-1, 2], "negative"),
        ([2**40, 2**40], "too many elements"),
        ([2**63 - 1] * 16, "too many elements"),
        ([1] * 17, "at most 16"),
        ([1.0], "list of integers"),
        ([True], "list of integers"),
        (["2"], "list of integers"),
        ("2", "list of integers"),
        (None, "list of integers"),
        ([[2]], "list of integers"),
    ],
)
def test_hostile_shapes_are_refused(shape: object, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensors.parse_shape("t", shape)


@pytest.mark.parametrize(
    ("count", "raw", "message"),
    [
        (1, b"\x05\x00\x00\x00abc", "fewer are left"),
        (1, b"\xff\xff\xff\xff", "fewer are left"),
        (2, struct.pack("<I", 4) + b"abcd", "ends before element 1"),
        (1, struct.pack("<I", 1) + b"ab", "follow the last"),
        (1 << 20, b"\x00" * (4 << 20), "do not fit"),
        (1000, b"\x00" * 12, "do not fit"),
    ],
)
def test_broken_string_framing_is_refused(count: int, raw: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensors.from_bytes("t", "BYTES", (count,), memoryview(raw))


@pytest.mark.parametrize("raw", ["FLOAT", "fp32", None, 3, "TYPE_FP32", ["FP32"], {"a": 1}])
def test_unknown_datatypes_are_refused_with_the_list_of_known_ones(raw: object) -> None:
    with pytest.raises(InvalidInput, match="use one of BOOL, UINT8"):
        tensors.parse_datatype("t", raw)


def test_bf16_is_refused_with_what_to_send_instead() -> None:
    with pytest.raises(InvalidInput, match="send FP32"):
        tensors.parse_datatype("t", "BF16")


SPEC = TensorSpec("image", "FP32", (-1, 1, 8, 8))


@pytest.mark.parametrize(
    ("array", "datatype", "message"),
    [
        (np.zeros((1, 1, 8, 8)), "FP64", "datatype FP64, the model takes FP32"),
        (np.zeros((1, 3, 8, 8), np.float32), "FP32", r"the model takes \[-1, 1, 8, 8\]"),
        (np.zeros((1, 8, 8), np.float32), "FP32", r"shape \[1, 8, 8\]"),
        (np.zeros((0, 1, 8, 8), np.float32), "FP32", "empty"),
        (np.full((1, 1, 8, 8), np.nan, np.float32), "FP32", "NaN"),
        (np.full((1, 1, 8, 8), -np.inf, np.float32), "FP32", "infinity"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_refused(array: np.ndarray, datatype: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tensors.check_fits(SPEC, Tensor("image", datatype, array))


def test_a_value_beyond_the_range_of_its_float_type_counts_as_infinite() -> None:
    array = tensors.from_json("image", "FP32", (1, 1, 8, 8), [1e300] * 64)
    with pytest.raises(InvalidInput, match="outside the range of FP32"):
        tensors.check_fits(SPEC, Tensor("image", "FP32", array))
