"""From columns to numbers: the same everywhere and for ever, or served models would answer nonsense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from modelyard_workloads.data.features import Features, hash_values
from modelyard_workloads.models.recommender import Table, pairwise
from modelyard_workloads.ranking import ranking_metrics, ranking_sums
from modelyard_workloads.tables import AddUp, Ftrl, RowwiseAdagrad, TableRule, TrainedTable, add_up_unseen
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

FEATURES = Features(
    numeric={"price": "log", "age": "none"},
    categorical={"user": 1000, "country": ["de", "fr"]},
    crosses=[["user", "country"]],
    cross_buckets=50,
)


def test_hashes_never_change() -> None:
    """These numbers are in every artifact ever made."""
    hashes = hash_values(["", "a", "Zürich", "42", 42, None])
    assert hashes.tolist() == [
        17665956581633026203,
        198367012849983736,
        5991303066825612235,
        11828931283358464770,
        11828931283358464770,
        17665956581633026203,
    ]
    alone = [hash_values([value])[0] for value in ("", "a", "Zürich", "42", 42, None)]
    assert alone == hashes.tolist()


def test_columns_share_one_table_and_crosses_follow() -> None:
    columns: dict[str, list[Any]] = {"user": [1, 1, 2, None], "country": ["de", "xx", "de", "fr"]}
    rows = FEATURES.rows(columns, 4)
    assert rows.dtype == np.int32
    assert ((rows[:, 0] >= 0) & (rows[:, 0] < 1000)).all()
    assert rows[:, 1].tolist() == [1001, 1000, 1001, 1002]
    assert ((rows[:, 2] >= 1003) & (rows[:, 2] < 1053)).all()
    assert (FEATURES.deep_rows, FEATURES.wide_rows) == (1003, 1053)
    assert rows[0, 0] == rows[1, 0] != rows[2, 0]
    assert len(set(rows[:, 2].tolist())) == 4


def test_buckets_are_filled_evenly() -> None:
    features = Features(numeric={}, categorical={"id": 64}, crosses=[], cross_buckets=2)
    counts = np.bincount(features.rows({"id": list(range(64_000))}, 64_000)[:, 0], minlength=64)
    assert counts.min() > 850
    assert counts.max() < 1150


def test_numbers_are_scaled_and_may_be_missing() -> None:
    numbers = FEATURES.numbers({"price": [0.0, np.e - 1, 1 - np.e, None], "age": [1, 2, 3, None]}, 4)
    np.testing.assert_allclose(numbers[:3], [[0, 1], [1, 2], [-1, 3]], atol=1e-6)
    assert np.isnan(numbers[3]).all()


def test_the_factorisation_machine_is_the_sum_over_all_pairs() -> None:
    embedded = torch.randn(5, 4, 3)
    pairs = sum((embedded[:, i] * embedded[:, j]).sum(1) for i in range(4) for j in range(i))
    torch.testing.assert_close(pairwise(embedded), pairs)


@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_the_metrics_are_those_of_scikit_learn(scale: float) -> None:
    torch.manual_seed(0)
    labels = (torch.rand(20_000) < 0.2).float()
    logits = (torch.randn(20_000) + labels - 1) * scale
    sums = sum(ranking_sums(logits[part], labels[part]) for part in (slice(0, 7000), slice(7000, None)))
    assert isinstance(sums, torch.Tensor)
    metrics = ranking_metrics(sums)
    assert metrics["auc"] == pytest.approx(roc_auc_score(labels, logits), abs=2e-4 if scale < 1 else 2e-5)
    assert metrics["logLoss"] == pytest.approx(log_loss(labels, logits.double().sigmoid()), rel=1e-9)
    assert metrics["calibration"] == pytest.approx(float(logits.sigmoid().sum() / labels.sum()), rel=1e-5)


def test_metrics_of_one_kind_only() -> None:
    assert ranking_metrics(ranking_sums(torch.zeros(3), torch.zeros(3)))["auc"] == 0.5


def test_a_rowwise_adagrad_that_touches_everything_is_torchs_adagrad_for_tables_of_width_one() -> None:
    torch.manual_seed(1)
    start, reference = torch.randn(6, 1), torch.nn.Parameter(torch.empty(6, 1))
    reference.data.copy_(start)
    optimizer = torch.optim.Adagrad([reference], lr=0.1, eps=1e-8)
    rule = RowwiseAdagrad()
    state = rule.state(start)
    for _ in range(5):
        gradient = torch.randn(6, 1)
        rule.update(start, state, torch.arange(6), gradient, 0.1)
        reference.grad = gradient
        optimizer.step()
    torch.testing.assert_close(start, reference.data)


def test_ftrl_without_regularisation_is_adagrad_and_l1_makes_zeros() -> None:
    """McMahan et al. 2013: w = -z / ((beta + sqrt(n)) / rate) is one gradient step of that rate."""
    gradients = torch.randn(50, 8, 1, generator=torch.Generator().manual_seed(2))
    weights = {}
    for l1 in (0.0, 3.0):
        weight = torch.zeros(8, 1)
        rule = Ftrl(l1=l1, beta=1.0)
        state = rule.state(weight)
        rule.update(weight, state, torch.arange(8), gradients[0], 0.5)
        if l1 == 0:
            torch.testing.assert_close(weight, -0.5 * gradients[0] / (1 + gradients[0].abs()))
        for gradient in gradients[1:]:
            rule.update(weight, state, torch.arange(8), gradient, 0.5)
        weights[l1] = weight
    assert (weights[0.0] == 0).sum() == 0
    assert (weights[3.0] == 0).sum() >= 1


@pytest.mark.parametrize("rule", [RowwiseAdagrad(), Ftrl(l1=0.1)])
def test_untouched_rows_stay_as_they_are(rule: TableRule) -> None:
    table = Table(10, 4, 1.0)
    trained = TrainedTable(table, rule, 0.1, rule.state(table.weight))
    before = table.weight.clone()
    add_up = AddUp(10)
    rows, gradient = add_up(torch.tensor([7, 2, 7], dtype=torch.int32), torch.ones(3, 4))
    assert dict(zip(rows.tolist(), gradient[:, 0].tolist(), strict=True)) == {2: 1, 7: 2}
    with torch.no_grad():
        rule.update(table.weight, trained.state, rows, gradient, 0.1)
    changed = (table.weight != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [2, 7]


LOOK_UPS = pytest.mark.parametrize(("count", "rows"), [(1, 5), (7, 3), (5000, 40), (5000, 3), (3000, 100_000)])


def expected_sums(rows: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted rows, each once, and the sums of their gradients in the order of the batch."""
    unique, places = torch.unique(rows, return_inverse=True)
    return unique, torch.zeros(len(unique), gradients.shape[1]).index_add_(0, places, gradients)


@LOOK_UPS
def test_gradients_of_a_row_are_added_up_in_their_order_batch_after_batch(count: int, rows: int) -> None:
    draw = torch.Generator().manual_seed(count)
    add_up = AddUp(rows)
    for _ in range(3):
        touched = torch.randint(rows, (count,), generator=draw, dtype=torch.int32)
        gradients = torch.randn(count, 4, generator=draw)
        expected_rows, expected = expected_sums(touched, gradients)
        found_rows, found = add_up(touched, gradients)
        order = found_rows.argsort()
        assert torch.equal(found_rows[order], expected_rows.long())
        assert torch.equal(found[order], expected), "bit for bit"


@LOOK_UPS
def test_gradients_of_a_gpu_are_added_up_without_a_look_at_them(count: int, rows: int) -> None:
    draw = torch.Generator().manual_seed(count)
    touched = torch.randint(rows, (count,), generator=draw, dtype=torch.int32)
    gradients = torch.randn(count, 4, generator=draw)
    expected_rows, expected = expected_sums(touched, gradients)
    found_rows, found = add_up_unseen(touched, gradients)
    unique = len(expected_rows)
    assert torch.equal(found_rows[:unique], expected_rows)
    torch.testing.assert_close(found[:unique], expected, rtol=1e-4, atol=1e-4)
    assert (found_rows[unique:] == expected_rows[-1]).all()  # the rest is the last one again
    assert (found[unique:] == found[unique - 1]).all()
