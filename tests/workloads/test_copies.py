"""Copies of many tensors at once are what each copy alone would be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from modelyard_workloads import copies
from modelyard_workloads.copies import Copies
from torch import Tensor


@pytest.fixture(params=[1, 3])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def sources() -> dict[str, Tensor]:
    grid = torch.arange(2 * 3 * 5 * 7, dtype=torch.float32).reshape(2, 3, 5, 7)
    return {
        "many pieces": torch.randn(1000),
        "less than a piece": torch.ones(3, dtype=torch.float64),
        "nothing": torch.empty(0),
        "a number": torch.tensor(7),
        "booleans": torch.tensor([True, False, True]),
        "half": torch.randn(65).to(torch.bfloat16),
        "channels last": grid.to(memory_format=torch.channels_last),
        "transposed": grid[0, 0].t(),
        "every second": torch.arange(20)[::2],
        "part of a block": torch.arange(20)[5:15],
        "repeated": torch.ones(1).expand(4),
        "learned": torch.nn.Parameter(torch.randn(64, 2)),
    }


@pytest.mark.usefixtures("_threads")
def test_whatever_lies_in_memory_in_whatever_way_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "PIECE", 256)
    given, made = sources(), Copies()
    targets = {name: torch.empty_like(tensor, requires_grad=False) for name, tensor in given.items()}
    for name, tensor in given.items():
        made.add(targets[name], tensor.detach())
    made.make()
    for name, tensor in given.items():
        assert torch.equal(targets[name], tensor), name
        tensor.detach().zero_() if name != "repeated" else None
    assert targets["many pieces"].count_nonzero() == 1000, "they are copies"


def test_without_anything_to_copy_nothing_happens() -> None:
    Copies().make()
