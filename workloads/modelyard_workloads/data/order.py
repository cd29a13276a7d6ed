"""The order of the samples: a pure function of (seed, epoch, position).

All ranks compute the same global batch and take their own slice of it. So there is nothing to communicate, the state
to save is two numbers, and one rank with a batch of 8 sees exactly what two ranks with 4 each, or three with 2, 3 and
3, see together: a training may go on with another number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modelyard_workloads.exits import DataError


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which part of every global batch is this rank's."""

    rank: int
    world_size: int

    def take(self, values: Tensor) -> Tensor:
        """This rank's contiguous slice of a global batch (dimension 0); the ranks' sizes differ by at most one."""
        start, end = (number * len(values) // self.world_size for number in (self.rank, self.rank + 1))
        return values[start:end]

    def weight(self, mine: int, total: int) -> float:
        """What the mean over `mine` of `total` samples is to be multiplied by, so that the mean over the ranks is the
        mean over all samples: exactly 1 where the slices are equal.
        """
        return mine * self.world_size / total

    def stride(self, count: int) -> Tensor:
        """This rank's share of `count` samples when each is to be visited once (evaluation); shares may differ by
        one.
        """
        return torch.arange(self.rank, count, self.world_size)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One global batch: the indices of its samples and a generator for whatever is drawn for them (augmentation,
    masking).
    """

    indices: Tensor  # (global batch,) int64
    generator: torch.Generator


class Order(Protocol):
    """An endless iterator over global batches of the `count` samples."""

    count: int
    steps_per_epoch: int

    def __next__(self) -> Draw:
        """The next global batch."""
        ...

    def state_dict(self) -> dict[str, int]:
        """The position."""
        ...

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        ...


class DataOrder:
    """An endless iterator over shuffled global batches; every epoch is a new permutation, its incomplete last batch
    is dropped.
    """

    def __init__(self, *, count: int, batch_size: int, seed: int) -> None:
        """Raises DataError when there are fewer than `batch_size` samples."""
        if count < batch_size:
            raise DataError(f"the training data has {count} samples, fewer than batchSize ({batch_size})")
        self.count = count
        self._batch_size = batch_size
        self._seed = seed
        self.steps_per_epoch = count // batch_size
        self._epoch = 0
        self._position = 0
        self._permutation = self._permute()

    def __next__(self) -> Draw:
        """The next global batch."""
        if self._position == self.steps_per_epoch:
            self._epoch += 1
            self._position = 0
            self._permutation = self._permute()
        start = self._position * self._batch_size
        indices = self._permutation[start : start + self._batch_size]
        generator = _generator(self._seed, self._epoch, self._position + 1)
        self._position += 1
        return Draw(indices=indices, generator=generator)

    def state_dict(self) -> dict[str, int]:
        """What the next batch depends on, apart from the constructor's arguments."""
        return {"epoch": self._epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken."""
        self._epoch = state["epoch"]
        self._position = state["position"]
        self._permutation = self._permute()

    def _permute(self) -> Tensor:
        return torch.randperm(self.count, generator=_generator(self._seed, self._epoch, 0))


class PoissonOrder:
    """Batches for differential privacy: every sample is in a batch or not by a coin of its own, so that batches differ
    in size and may be empty. Amplification by sampling is proven for this, and only while nobody knows the draws: the
    secret is the attempt's own and is stored nowhere, so a resumed run draws other batches.

    Mironov et al. 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism".
    """

    def __init__(self, *, count: int, batch_size: int, secret: bytes) -> None:
        self.count = count
        self._batch_size = batch_size
        self._random = np.random.default_rng(int.from_bytes(secret, "big"))
        self.steps_per_epoch = count // batch_size
        self._step = 0

    def __next__(self) -> Draw:
        """The next global batch; `batch_size` samples on average."""
        self._step += 1
        size = self._random.binomial(self.count, self._batch_size / self.count)
        indices = self._random.choice(self.count, size, replace=False)
        generator = torch.Generator().manual_seed(int(self._random.integers(2**63)))
        return Draw(indices=torch.from_numpy(indices), generator=generator)

    def state_dict(self) -> dict[str, int]:
        """Where an ordered run would be."""
        return {"epoch": self._step // self.steps_per_epoch, "position": self._step % self.steps_per_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Count on from there."""
        self._step = state["epoch"] * self.steps_per_epoch + state["position"]


def _generator(seed: int, epoch: int, position: int) -> torch.Generator:
    """A generator of its own for every batch, well mixed: nothing depends on how many numbers were drawn before."""
    mixed = (seed * 0x9E3779B97F4A7C15 + epoch * 0xBF58476D1CE4E5B9 + position * 0x94D049BB133111EB) & (2**64 - 1)
    mixed ^= mixed >> 31
    return torch.Generator().manual_seed((mixed * 0xD6E8FEB86659FD93) & (2**63 - 1))
