"""Differential privacy: DP-SGD (Abadi et al. 2016, arXiv:1607.00133) with Opacus' per-sample gradients and accountant.

Each sample's gradient is clipped to a norm, Gaussian noise is added to their sum, and batches are Poisson samples. The
noise is the least that keeps the planned number of steps within epsilon, by Renyi accounting.

Randomness: noise and batches must not be predictable from anything that is published, so they do not come from the
parameter `seed` but from the operating system's generator (`os.urandom` seeds torch's and NumPy's, anew in every
attempt, and is stored nowhere). The price: a private run cannot be repeated, and a resumed one is not bit for bit the
run never stopped. The generators behind the seeds are statistical ones, not cryptographic ones.

With several ranks each clips and sums its own samples, rank 0 adds the noise once, and the sum of all is divided by the
expected batch size.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sized
from contextlib import AbstractContextManager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelyard_workloads.backward import Backward, divide
from modelyard_workloads.config import DifferentialPrivacy, TrainingConfig
from modelyard_workloads.data.order import PoissonOrder
from modelyard_workloads.distributed import Ranks
from modelyard_workloads.exits import ConfigError, Issue
from modelyard_workloads.tasks.base import OrderedStream, Task

_FIELD = "privacy.differentialPrivacy"


class PrivateBackward:
    """Makes the gradients of one private step; takes the place of Backward."""

    def __init__(self, config: TrainingConfig, data: Any, total_steps: int, ranks: Ranks) -> None:
        """Calibrate the noise and replace the order of the data. Raises ConfigError for a budget that cannot be kept
        or makes no sense for this many samples.
        """
        assert config.private is not None
        assert isinstance(data, OrderedStream)
        self._budget = config.private
        self._batch_size = config.parameters.batch_size
        self._parts = config.parameters.accumulation_steps
        self._ranks = ranks
        self._plain = Backward(config.parameters, ranks.device)
        count = data.order.count
        _check(self._budget, count)
        self._rate = self._batch_size / count
        self.noise_multiplier = _noise_multiplier(self._budget, self._rate, total_steps)
        secret = ranks.broadcast(os.urandom(32) if ranks.is_main else None)
        data.order = PoissonOrder(count=count, batch_size=self._batch_size, secret=secret)
        self._noise = torch.Generator(ranks.device).manual_seed(int.from_bytes(os.urandom(7), "big"))

    def precision(self) -> AbstractContextManager[Any]:
        """The context in which the model runs."""
        return self._plain.precision()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with per-sample gradients. Raises ConfigError for layers that mix samples."""
        from opacus import GradSampleModule
        from opacus.validators import ModuleValidator

        for module in model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment] # the hooks that see every sample's gradient do not allow it
        errors = ModuleValidator.validate(model, strict=False)
        try:
            if errors:
                raise NotImplementedError(str(errors[0]).splitlines()[0])
            return GradSampleModule(model, loss_reduction="sum", strict=False)  # type: ignore[no-any-return]
        except NotImplementedError as error:
            message = f"this architecture cannot be trained privately: {error}"
            raise ConfigError([Issue(_FIELD, message)]) from None

    def __call__(self, task: Task, model: nn.Module, batch: Any) -> Tensor:
        """Set the gradients to the clipped and noised sum over the global batch by its expected size; the loss."""
        trained = [p for p in model.parameters() if p.requires_grad]
        sums = [torch.zeros_like(p) for p in trained]
        total = torch.zeros((), device=trained[0].device)
        for part in divide(batch, self._parts):
            if not count_samples(part):
                continue
            with self.precision():
                loss = task.loss(model, part)
            with warnings.catch_warnings():
                # The hooks read what comes in and the gradients of what goes out, never those of the data.
                warnings.filterwarnings("ignore", message="Full backward hook is firing")
                loss.backward()  # type: ignore[no-untyped-call]
            # The task's loss is a sum times world size / batch size (see Shard.weight).
            self._add_clipped(trained, sums, self._batch_size / self._ranks.world_size)
            total += loss.detach()
        self._share(trained, sums)
        return total

    def _add_clipped(self, trained: list[nn.Parameter], sums: list[Tensor], scale: float) -> None:
        gradients = [_per_sample(p) * scale for p in trained]  # (b, *shape) each
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factors = (self._budget.max_grad_norm / (norms + 1e-6)).clamp(max=1)
        for parameter, total, gradient in zip(trained, sums, gradients, strict=True):
            total += torch.einsum("b,b...->...", factors, gradient)
            parameter.grad_sample = parameter.grad = None  # type: ignore[attr-defined]

    def _share(self, trained: list[nn.Parameter], sums: list[Tensor]) -> None:
        deviation = self.noise_multiplier * self._budget.max_grad_norm
        for parameter, total in zip(trained, sums, strict=True):
            if self._ranks.is_main:
                noise = torch.randn(total.shape, device=total.device, generator=self._noise)
                total += deviation * noise
            parameter.grad = self._ranks.all_reduce(total) / self._batch_size

    def spent(self, steps: int) -> dict[str, float]:
        """What that many steps cost."""
        epsilon = _epsilon(self.noise_multiplier, self._rate, steps, self._budget.delta) if steps else 0.0
        return {"epsilon": epsilon, "delta": self._budget.delta, "noiseMultiplier": self.noise_multiplier}


def count_samples(batch: Any) -> int:
    """The samples of a batch: what it says itself, else the size of dimension 0 of its first tensor."""
    if isinstance(batch, Tensor):
        return len(batch)
    if is_dataclass(batch):
        if isinstance(batch, Sized):
            return len(batch)
        return count_samples(getattr(batch, fields(batch)[0].name))
    return count_samples(next(iter(batch.values() if isinstance(batch, dict) else batch)))


def _per_sample(parameter: nn.Parameter) -> Tensor:
    """(b, *shape) float32. Raises RuntimeError for a parameter that Opacus did not see."""
    gradient = getattr(parameter, "grad_sample", None)
    if isinstance(gradient, list):  # a layer that is used twice
        gradient = torch.stack(gradient).sum(dim=0)
    if gradient is None:
        raise RuntimeError(f"a parameter of shape {list(parameter.shape)} has no gradient for each sample")
    return gradient.float()


def _check(budget: DifferentialPrivacy, count: int) -> None:
    if budget.delta >= 1 / count:
        message = f"{budget.delta:g} must be below one over the number of samples; write {0.1 / count:.0e} or less"
        raise ConfigError([Issue(f"{_FIELD}.delta", message)])


def _noise_multiplier(budget: DifferentialPrivacy, rate: float, steps: int) -> float:
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found: float = get_noise_multiplier(
                target_epsilon=budget.epsilon,
                target_delta=budget.delta,
                sample_rate=rate,
                steps=steps,
                accountant="rdp",
                epsilon_tolerance=min(0.01, budget.epsilon / 100),
            )
        except ValueError:
            message = f"{budget.epsilon:g} cannot be kept over {steps} steps with any noise; raise it, or train shorter"
            raise ConfigError([Issue(f"{_FIELD}.epsilon", message)]) from None
    return found


def _epsilon(noise: float, rate: float, steps: int, delta: float) -> float:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta))
