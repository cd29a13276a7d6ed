"""Rows of a table as encoded columns in memory-mapped files: made once for a data set and a declaration of columns,
then read at the speed of the page cache, however large they are.

Shapes: n samples, F categorical columns, C crosses, D numeric columns.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelyard_workloads.data.cache import cache_directory, make_once
from modelyard_workloads.data.features import Features
from modelyard_workloads.data.order import DataOrder, Order, Shard
from modelyard_workloads.data.records import TABLE_SUFFIXES, RowPolicy, Rows
from modelyard_workloads.data.sources import SourceFile, open_source
from modelyard_workloads.data.transfer import has_room, to_device
from modelyard_workloads.data.values import Column, Key
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.recommendation import RecommendationParameters

_FORM = 1  # to be raised when the same input gives other files
_SPLIT_SEED = np.uint64(20240229)
_PARTS = {"train": ("train",), "held_out": ("test", "val")}


@dataclass(frozen=True, kw_only=True)
class Samples:
    """One part of the data."""

    rows: NDArray[np.int32]  # (n, F + C)
    numbers: NDArray[np.float32]  # (n, D), NaN where there is none
    labels: NDArray[np.uint8]  # (n,)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor, device: torch.device) -> Batch:
        """These samples as tensors on the device."""
        parts = [np.take(part, indices.numpy(), axis=0) for part in (self.rows, self.numbers, self.labels)]
        rows, numbers, labels = (to_device(torch.from_numpy(part), device) for part in parts)
        return Batch(rows=rows, numbers=numbers, labels=labels.float())


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples on the device."""

    rows: Tensor  # (b, F + C) int32
    numbers: Tensor  # (b, D) float32
    labels: Tensor  # (b,) float32

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True)
class ResidentSamples:
    """Samples that are on the device already: there a batch is taken faster than it could travel."""

    rows: Tensor
    numbers: Tensor
    labels: Tensor

    @classmethod
    def of(cls, samples: Samples, device: torch.device) -> ResidentSamples:
        """All samples, moved there."""
        rows, numbers, labels = (
            torch.from_numpy(part).to(device) for part in (samples.rows, samples.numbers, samples.labels)
        )
        return cls(rows=rows, numbers=numbers, labels=labels)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor, device: torch.device) -> Batch:
        """See `Samples.take`."""
        chosen = to_device(indices, device)
        rows, numbers, labels = (part.index_select(0, chosen) for part in (self.rows, self.numbers, self.labels))
        return Batch(rows=rows, numbers=numbers, labels=labels.float())


def settle(samples: Samples, device: torch.device) -> Samples | ResidentSamples:
    """The samples where batches of them are best taken: on a GPU that has the room, else where they are."""
    size = samples.rows.nbytes + samples.numbers.nbytes + samples.labels.nbytes
    return ResidentSamples.of(samples, device) if has_room(size, device) else samples


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """A data set in two parts, and what is to be known of its columns."""

    train: Samples
    held_out: Samples
    mean: list[float]  # of the numeric columns of the training part
    std: list[float]
    integers: list[str]  # the categorical columns that hold whole numbers
    examples: dict[str, list[Any]]  # a few held-out rows as they came
    skipped: dict[str, Any]


def load_interactions(uri: str, parameters: RecommendationParameters) -> Interactions:
    """Encode the data set at `uri`, or open what was encoded before. Raises DataError with file and line."""
    source = open_source(uri)
    files = source.select(TABLE_SUFFIXES)
    features = Features.of(parameters)
    identity = {
        "form": _FORM,
        "files": [[file.address, file.size, file.version] for file in files],
        "features": features.to_json(),
        "label": parameters.label,
        "fraction": parameters.evaluation_fraction,
        "rows": [parameters.on_bad_row, parameters.max_bad_rows],
    }
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def encode(directory: Path) -> None:
        _Encoder(directory, features, parameters).run(files)

    directory = make_once(cache_directory("interactions") / key, encode, directory=True)
    about = json.loads((directory / "about.json").read_text())
    width, numbers = len(features.categorical) + len(features.crosses), len(features.numeric)
    parts = {name: _open(directory, name, width, numbers) for name in _PARTS}
    for name, part in parts.items():
        if not len(part):
            raise DataError(f"dataset.uri: {uri} has no rows for the part {name}")
    return Interactions(train=parts["train"], held_out=parts["held_out"], **about)


def _open(directory: Path, name: str, width: int, numbers: int) -> Samples:
    def mapped(kind: str, dtype: type[np.generic], columns: int | None) -> Any:
        path = directory / f"{name}.{kind}"
        count = (directory / f"{name}.labels").stat().st_size
        shape = (count,) if columns is None else (count, columns)
        if not count or columns == 0:
            return np.zeros(shape, dtype)  # an empty file cannot be mapped
        # Copy on write: nothing writes, and torch does not know read-only memory.
        return np.memmap(path, dtype, mode="c", shape=shape)

    return Samples(
        rows=mapped("rows", np.int32, width),
        numbers=mapped("numbers", np.float32, numbers),
        labels=mapped("labels", np.uint8, None),
    )


class _Encoder:
    """Writes the files; one chunk in memory at a time."""

    def __init__(self, directory: Path, features: Features, parameters: RecommendationParameters) -> None:
        self._directory = directory
        self._features = features
        self._label = parameters.label
        self._fraction = parameters.evaluation_fraction
        self._policy = RowPolicy.of(parameters)
        self._columns = [
            Column(parameters.label, bool),
            *(Column(name, float, optional=True) for name in features.numeric),
            *(Column(name, Key, optional=True) for name in features.categorical),
        ]
        self._moments = np.zeros((3, len(features.numeric)))  # count, sum, sum of squares
        self._integers = dict.fromkeys(features.categorical, True)
        self._examples: dict[str, list[Any]] = {c.name: [] for c in self._columns[1:]}
        self._seen = 0

    def run(self, files: Sequence[SourceFile]) -> None:
        parts = _parts(files)
        with contextlib.ExitStack() as stack:
            self._outputs = {
                f"{name}.{kind}": stack.enter_context((self._directory / f"{name}.{kind}").open("wb"))
                for name in _PARTS
                for kind in ("rows", "numbers", "labels")
            }
            for part, chosen in parts.items():
                for chunk in Rows(chosen, self._columns, self._policy).chunks():
                    self._write(part, chunk.columns)
        count, total, squares = self._moments
        count = np.maximum(count, 1)
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        plain = np.array([kind == "none" for kind in self._features.numeric.values()], dtype=bool)
        about = {
            "mean": np.where(plain, 0, mean).tolist(),
            "std": np.where(plain, 1, np.where(std > 1e-6, std, 1)).tolist(),
            "integers": [name for name, whole in self._integers.items() if whole],
            "examples": self._examples,
            "skipped": self._policy.report(),
        }
        (self._directory / "about.json").write_text(json.dumps(about))

    def _write(self, part: str, columns: dict[str, list[Any]]) -> None:
        labels = np.array(columns[self._label], dtype=np.uint8)
        count = len(labels)
        rows, numbers = self._features.rows(columns, count), self._features.numbers(columns, count)
        for name in self._features.categorical:
            self._integers[name] &= all(type(value) is int for value in columns[name])
        held_out = np.full(count, part == "held_out")
        if not part:
            held_out = _drawn(np.arange(self._seen, self._seen + count), self._fraction)
        self._seen += count
        known = numbers[~held_out].astype(np.float64)
        there = ~np.isnan(known)
        known = np.where(there, known, 0)
        self._moments += [there.sum(axis=0), known.sum(axis=0), (known**2).sum(axis=0)]
        for name, mask in (("train", ~held_out), ("held_out", held_out)):
            for kind, values in (("rows", rows), ("numbers", numbers), ("labels", labels)):
                self._outputs[f"{name}.{kind}"].write(np.ascontiguousarray(values[mask]).tobytes())
        for name, kept in self._examples.items():
            kept += [columns[name][index] for index in np.flatnonzero(held_out)[: 4 - len(kept)]]


def _parts(files: Sequence[SourceFile]) -> dict[str, list[SourceFile]]:
    """Files by the part they belong to; "" is to be divided. Raises DataError when a part has no counterpart."""
    found: dict[str, list[SourceFile]] = {}
    for file in files:
        folder = Path(file.relative).parts[0]
        part = next((name for name, folders in _PARTS.items() if folder in folders), "")
        found.setdefault(part, []).append(file)
    if len(found) == 1 and "" in found:
        return found
    if set(found) != set(_PARTS):
        folders = sorted({Path(file.relative).parts[0] for file in files})
        raise DataError(
            "dataset.uri: the data must be in the folders train and test (or val), or in neither; found"
            f" {', '.join(folders[:10])}"
        )
    return found


def _drawn(numbers: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Is a row held out? It depends on its number alone, so that all trainings on the same data are comparable."""
    mixed = (numbers.astype(np.uint64) + _SPLIT_SEED) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2**53 < fraction


class InteractionBatches:
    """This rank's part of the endless stream of training batches."""

    def __init__(
        self, samples: Samples, parameters: RecommendationParameters, shard: Shard, device: torch.device
    ) -> None:
        self._samples = settle(samples, device)
        self._shard = shard
        self._device = device
        self.order: Order = DataOrder(count=len(samples), batch_size=parameters.batch_size, seed=parameters.seed)
        self.steps_per_epoch = self.order.steps_per_epoch

    def __next__(self) -> Batch:
        """The next batch."""
        mine = self._shard.take(next(self.order).indices)
        return self._samples.take(mine, self._device)

    def state_dict(self) -> dict[str, int]:
        """The position in the data."""
        return self.order.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at a saved position."""
        self.order.load_state_dict(state)
