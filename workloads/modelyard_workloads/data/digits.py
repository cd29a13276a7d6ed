"""`example://digits`, and how it is split in two. Imports no torch: clients that send the held-out images need none."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelyard_workloads.exits import DataError

# The split must be the same for every training that is compared with another: it does not depend on the training's
# seed.
SPLIT_SEED = 20240229
CLASSES = 10


def load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (1797, 1, 8, 8) and labels (1797,): scikit-learn's copy of the UCI test set of handwritten digits, grey
    values 0..16 stretched to bytes.
    """
    # Read where scikit-learn has it, without importing the package: that takes a second, at every start of a rank.
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("dataset.uri: example://digits is part of scikit-learn, which is not installed")
    with gzip.open(Path(package.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    images = table[:, :-1].reshape(-1, 1, 8, 8)
    return np.round(images * (255 / 16)).astype(np.uint8), table[:, -1].astype(np.int64)


def held_out_mask(labels: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Which samples are held out: the same share of every class, at least one sample of each."""
    generator = np.random.default_rng(SPLIT_SEED)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        held_out[members[: max(1, round(fraction * len(members)))]] = True
    return held_out
