"""Columns to numbers, the same in training and in serving: hashing, vocabularies, crosses. No torch, no Python per row.

Every value of a categorical column becomes a row of one table that all columns share: column 0 has the first rows,
column 1 the next ones, and so on; the crosses follow. So one lookup fetches all embeddings of a batch.

Shapes: n samples, F categorical columns, C crosses, D numeric columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard_workloads.parameters.recommendation import RecommendationParameters

LONGEST = 1024  # characters of a categorical value
_OFFSET, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # FNV-1a, over code points


@dataclass(frozen=True)
class Features:
    """How columns are encoded; what an artifact says under `preprocess.features`."""

    numeric: dict[str, str]  # column -> standardise, log, none
    categorical: dict[str, int | list[str]]  # column -> buckets or vocabulary
    crosses: list[list[str]]
    cross_buckets: int

    @classmethod
    def of(cls, parameters: RecommendationParameters) -> Features:
        """Those that the parameters declare."""
        return cls(
            numeric=dict(parameters.numeric),
            categorical=dict(parameters.categorical),
            crosses=[list(cross) for cross in parameters.crosses],
            cross_buckets=parameters.cross_buckets,
        )

    def to_json(self) -> dict[str, Any]:
        """As it is written into the artifact: columns as lists, since their order counts and JSON's keys have none."""
        return {
            "numeric": [[name, transform] for name, transform in self.numeric.items()],
            "categorical": [[name, kind] for name, kind in self.categorical.items()],
            "crosses": self.crosses,
            "crossBuckets": self.cross_buckets,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Features:
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(dict(raw["numeric"]), dict(raw["categorical"]), raw["crosses"], raw["crossBuckets"])

    @cached_property
    def sizes(self) -> list[int]:
        """Rows of each categorical column; a vocabulary has one more, for all other values."""
        return [kind if isinstance(kind, int) else len(kind) + 1 for kind in self.categorical.values()]

    @property
    def deep_rows(self) -> int:
        """Rows of the embedding table."""
        return sum(self.sizes)

    @property
    def wide_rows(self) -> int:
        """Rows of the wide part's table: those of the columns, and those of the crosses."""
        return self.deep_rows + len(self.crosses) * self.cross_buckets

    def rows(self, columns: Mapping[str, Sequence[Any]], count: int) -> NDArray[np.int32]:
        """(n, F + C) row numbers of `count` samples; values are text, whole numbers, or None."""
        found = np.empty((count, len(self.categorical) + len(self.crosses)), dtype=np.int32)
        hashes = {name: hash_values(columns[name]) for name in self.categorical}
        first = 0
        for index, (name, size) in enumerate(zip(self.categorical, self.sizes, strict=True)):
            found[:, index] = first + self._within(name, hashes[name], index)
            first += size
        for index, cross in enumerate(self.crosses, start=len(self.categorical)):
            mixed = np.full(count, index, dtype=np.uint64)
            for name in cross:
                mixed = _mixed(mixed * _PRIME ^ hashes[name])
            found[:, index] = first + (mixed % np.uint64(self.cross_buckets)).astype(np.int64)
            first += self.cross_buckets
        return found

    def _within(self, name: str, hashes: NDArray[np.uint64], index: int) -> NDArray[np.int64]:
        kind = self.categorical[name]
        if isinstance(kind, int):
            return (_mixed(hashes + np.uint64(index)) % np.uint64(kind)).astype(np.int64)
        known, order = self._vocabularies[name]
        place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        return np.where(known[place] == hashes, order[place] + 1, 0)

    @cached_property
    def _vocabularies(self) -> dict[str, tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        """For each vocabulary the sorted hashes and which word each is."""
        found = {}
        for name, kind in self.categorical.items():
            if isinstance(kind, list):
                hashes = hash_values(kind)
                order = np.argsort(hashes, kind="stable")
                found[name] = (hashes[order], order.astype(np.int64))
        return found

    def numbers(self, columns: Mapping[str, Sequence[Any]], count: int) -> NDArray[np.float32]:
        """(n, D) with the logarithm applied; what is missing is NaN. Standardisation is the model's first layer."""
        found = np.empty((count, len(self.numeric)), dtype=np.float32)
        for index, (name, transform) in enumerate(self.numeric.items()):
            values = np.asarray(columns[name], dtype=np.float64)  # None becomes NaN
            if transform == "log":
                values = np.sign(values) * np.log1p(np.abs(values))
            found[:, index] = values
        return found


def hash_values(values: Sequence[Any]) -> NDArray[np.uint64]:
    """A 64-bit hash of each value, the same on every machine: a number and its digits as text are equal, None is the
    empty text.
    """
    text = np.array(["" if value is None else value for value in values], dtype=np.str_)
    if not text.dtype.itemsize:
        text = text.astype("U1")
    codes = np.ascontiguousarray(text.view(np.uint32).reshape(len(text), -1).T).astype(np.uint64)
    found = np.full(len(text), _OFFSET)
    for position in codes:
        found = np.where(position != 0, (found ^ position) * _PRIME, found)
    return _mixed(found)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """All bits depend on all bits (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
