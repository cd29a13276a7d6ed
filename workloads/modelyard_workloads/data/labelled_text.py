"""Encoded texts with what is to be learned of them, made once and mapped into memory; and batches of them.

    <directory>/<part>.tokens.npy    all rows behind each other    <part>.types.npy   which of two texts
    <directory>/<part>.starts.npy    where rows begin, and the end
    <directory>/<part>.<name>.npy    anything else: a number for each row, or for each token

Imports torch for batches only.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelyard_workloads.data.order import DataOrder, Order, Shard
from modelyard_workloads.data.sources import SourceFile
from modelyard_workloads.data.transfer import to_device
from modelyard_workloads.exits import DataError
from modelyard_workloads.models.bert import PackedRows, pack_rows

TRAIN, HELD_OUT = "train", "held_out"
_TRAIN_WORDS = frozenset({"train", "training"})
_HELD_OUT_WORDS = frozenset({"test", "val", "valid", "validation", "dev", "eval", "evaluation"})


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The rows of one part."""

    tokens: NDArray[np.uint32]  # (T,)
    types: NDArray[np.uint8]  # (T,)
    starts: NDArray[np.int64]  # (N + 1,)
    targets: dict[str, NDArray[Any]]  # (N,) or (T,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pack(self, indices: Sequence[int], device: torch.device) -> PackedRows:
        """These rows, packed."""
        spans = [slice(self.starts[i], self.starts[i + 1]) for i in indices]
        return pack_rows([self.tokens[s] for s in spans], [self.types[s] for s in spans], device)

    def of_tokens(self, name: str, indices: Sequence[int]) -> Tensor:
        """The targets of the tokens of these rows, one behind the other."""
        values = [self.targets[name][self.starts[i] : self.starts[i + 1]] for i in indices]
        return torch.from_numpy(np.concatenate([*values, np.empty(0, np.int64)]).astype(np.int64))


class ExampleWriter:
    """Collects the rows of a part."""

    def __init__(self) -> None:
        self._tokens, self._types, self._starts = array("I"), array("B"), array("q", [0])
        self._targets: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, tokens: Sequence[int], types: Sequence[int], **targets: int | Sequence[int]) -> None:
        """A row; every row has the same targets: numbers, or one for each of its tokens."""
        self._tokens.extend(tokens)
        self._types.extend(types)
        self._starts.append(len(self._tokens))
        for name, value in targets.items():
            self._targets.setdefault(name, array("q")).extend([value] if isinstance(value, int) else value)

    def write(self, directory: Path, part: str) -> None:
        """Write the files of the part. Raises OSError."""
        arrays: dict[str, NDArray[Any]] = {
            "tokens": np.asarray(self._tokens, dtype=np.uint32),
            "types": np.asarray(self._types, dtype=np.uint8),
            "starts": np.asarray(self._starts, dtype=np.int64),
        }
        arrays |= {name: np.asarray(values, dtype=np.int64) for name, values in self._targets.items()}
        for name, values in arrays.items():
            np.save(directory / f"{part}.{name}.npy", values, allow_pickle=False)


def open_examples(directory: Path, part: str) -> Examples:
    """Map the files of a part."""
    arrays: dict[str, Any] = {}
    for path in sorted(directory.glob(f"{part}.*.npy")):
        arrays[path.name.split(".")[1]] = np.load(path, mmap_mode="r", allow_pickle=False)
    tokens, types, starts = (arrays.pop(name) for name in ("tokens", "types", "starts"))
    return Examples(tokens=tokens, types=types, starts=np.asarray(starts), targets=arrays)


@dataclass(frozen=True, kw_only=True)
class ExampleBatch:
    """Rows and their targets."""

    rows: PackedRows
    indices: tuple[int, ...]  # of the rows, among the examples
    targets: Tensor  # what the task makes of them; for each row or for each token
    total: int  # rows, or tokens with a target, in the global batch; with privacy as many as there are on average

    def __len__(self) -> int:
        return len(self.indices)

    def parts(self, count: int) -> Sequence[ExampleBatch]:
        """The batch in `count` parts; see backward.Divisible."""
        size = len(self.indices)
        return [self._part(n * size // count, (n + 1) * size // count) for n in range(count)]

    def _part(self, first: int, last: int) -> ExampleBatch:
        start, end = first, last
        if len(self.targets) != len(self.indices):
            start, end = sum(self.rows.lengths[:first]), sum(self.rows.lengths[:last])
        rows = self.rows.part(first, last)
        return ExampleBatch(
            rows=rows, indices=self.indices[first:last], targets=self.targets[start:end], total=self.total
        )


class ExampleBatches:
    """This rank's part of the endless stream of training batches.

    `target` names the rows' (or tokens') targets; `counts` (N,) is how many of them each row has, one where it is not
    given: so that every rank knows how many there are in the global batch.
    """

    def __init__(
        self, examples: Examples, target: str, *, batch_size: int, seed: int, shard: Shard, device: torch.device
    ) -> None:
        self._examples = examples
        self._target = target
        self._shard = shard
        self._device = device
        self._batch_size = batch_size
        self.order: Order = DataOrder(count=len(examples), batch_size=batch_size, seed=seed)
        self.steps_per_epoch = self.order.steps_per_epoch

    def __next__(self) -> ExampleBatch:
        """The next batch."""
        draw = next(self.order)
        counts = self._examples.targets.get("counts")
        total = self._batch_size if counts is None else int(counts[draw.indices.numpy()].sum())
        return example_batch(self._examples, self._target, self._shard.take(draw.indices).tolist(), total, self._device)

    def state_dict(self) -> dict[str, int]:
        """The position in the data."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a saved position."""
        self.order.load_state_dict(state)


def example_batch(
    examples: Examples, target: str, indices: Sequence[int], total: int, device: torch.device
) -> ExampleBatch:
    """The batch of these rows."""
    values = examples.targets[target]
    if len(values) == len(examples):
        targets = torch.from_numpy(values[list(indices)].astype(np.int64))
    else:
        targets = examples.of_tokens(target, indices)
    rows = examples.pack(indices, device)
    return ExampleBatch(rows=rows, indices=tuple(indices), targets=to_device(targets, device), total=total)


def named_parts(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """The files to train on and those to evaluate with, by their names and folders (`train.csv`, `test/part-1.csv`);
    the second list is empty when no name says so. Raises DataError when only held-out files are there.
    """
    held_out = [file for file in files if _HELD_OUT_WORDS & _words(file)]
    train = [file for file in files if file not in held_out]
    named = [file for file in train if _TRAIN_WORDS & _words(file)]
    if held_out and not train:
        raise DataError(f"dataset.uri: {held_out[0].address} is for evaluation; there is no file to train on")
    return (named if held_out and named else train), held_out


def _words(file: SourceFile) -> set[str]:
    return set(re.split(r"[^a-z]+", file.relative.lower()))
