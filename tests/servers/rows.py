"""A small real model without torch for tests of the layers around it: rows in, numbers out, row by row."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.runtimes import Decoder
from modelyard_workloads.serve.tensors import Array, TensorSpec

POISON = 666.0


def read_row(data: bytes) -> Array:
    """Numbers as text with commas between them."""
    try:
        return np.array([float(part) for part in data.split(b",")], dtype=np.float32)
    except ValueError:
        raise InvalidInput("not numbers with commas between them") from None


class RowModel:
    """`y` = sum and maximum of the row's numbers, `name` = their count as text; one row never sees another.

    `seconds` a batch takes, `delay_of` rows ask for more; a row that has POISON breaks the batch it is in.
    """

    task = "rows"
    labels = ("sum", "max")
    inputs = (TensorSpec("x", "FP32", (-1, -1)),)
    decoders: ClassVar[Mapping[str, Decoder]] = {"x": read_row}
    outputs = (TensorSpec("y", "FP32", (-1, 2)), TensorSpec("name", "BYTES", (-1,)))

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []
        self.begun = 0  # batches that it has got, the one behind the gate included
        self.gate = threading.Event()
        self.gate.set()

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Numbers above a million make no sense here."""
        if np.abs(arrays["x"]).max() > 1e6:
            raise InvalidInput("input 'x': numbers must be below a million")

    def predict(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """{x: [B, N]} -> {y: [B, 2], name: [B]}"""
        x = arrays["x"]
        self.begun += 1
        self.gate.wait(120)
        if self.seconds:
            time.sleep(self.seconds)
        self.batches.append(len(x))
        if (x == POISON).any():
            raise RuntimeError(f"poison in {x!r}")
        y = np.stack([x.sum(axis=1), x.max(axis=1)], axis=1).astype(np.float32)
        names = np.array([str(x.shape[1]).encode()] * len(x), dtype=object)
        return {"y": y, "name": names}
