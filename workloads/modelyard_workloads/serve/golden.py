"""The golden gate: a model serves only after it reproduced the answers that its training recorded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelyard_workloads.artifact import Golden, TensorValue
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.errors import InvalidInput, LoadFailure
from modelyard_workloads.serve.runtimes import Runtime
from modelyard_workloads.serve.tensors import Array, from_json

REASON = "GoldenMismatch"


def check_golden(runtime: Runtime, golden: Sequence[Golden], validation: ValidationSection) -> float:
    """Run every golden input and compare; the largest absolute difference that was seen.

    Raises LoadFailure (GoldenMismatch) that says which output differs and by how much, or that there are no golden
    answers although they are required. Every answer must satisfy |got - want| <= atol + rtol * |want|.
    """
    if validation.golden == "Off":
        return 0.0
    if not golden:
        if validation.golden == "Required":
            raise LoadFailure(REASON, "the artifact has no golden answers, and validation.golden is Required")
        return 0.0
    worst = 0.0
    for index, case in enumerate(golden):
        inputs = {value.name: _array(value) for value in case.inputs}
        missing = {spec.name for spec in runtime.inputs} - inputs.keys()
        if missing:
            raise LoadFailure(REASON, f"golden[{index}] has no input {', '.join(sorted(missing))}")
        answers = runtime.predict(inputs)
        for want in case.outputs:
            got = answers.get(want.name)
            if got is None:
                raise LoadFailure(REASON, f"golden[{index}] has an output '{want.name}' that the model does not give")
            worst = max(worst, _compare(f"golden[{index}].{want.name}", got, _array(want), validation))
    return worst


def _array(value: TensorValue) -> Array:
    try:
        return from_json(value.name, value.datatype, tuple(value.shape), value.data)
    except InvalidInput as error:
        raise LoadFailure(REASON, f"the golden answers cannot be read: {error}") from None


def _compare(where: str, got: Array, want: Array, validation: ValidationSection) -> float:
    if got.shape != want.shape:
        raise LoadFailure(REASON, f"{where} has shape {list(got.shape)}, the training recorded {list(want.shape)}")
    if want.dtype.kind in "Ob":
        if not np.array_equal(got, want):
            raise LoadFailure(REASON, f"{where} differs from what the training recorded")
        return 0.0
    difference = np.abs(got.astype(np.float64) - want.astype(np.float64))
    # Written so that NaN fails.
    bad = ~(difference <= validation.atol + validation.rtol * np.abs(want.astype(np.float64)))
    if bad.any():
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        raise LoadFailure(
            REASON,
            f"{where}: {int(bad.sum())} of {bad.size} values differ from the recorded ones, first at {list(place)}:"
            f" {float(got[place]):.6g} instead of {float(want[place]):.6g}"
            f" (rtol {validation.rtol:g}, atol {validation.atol:g})",
        )
    return float(difference.max(initial=0.0))
