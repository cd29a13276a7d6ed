"""Declarations of columns that make no sense, and what is said about them before any data is read."""

from __future__ import annotations

from typing import Any

import pytest
from modelyard_workloads import config
from modelyard_workloads.exits import ConfigError

GOOD: dict[str, Any] = {"label": "clicked", "numeric": {"price": "log"}, "categorical": {"user": 100, "device": ["tv"]}}


def issues(parameters: dict[str, Any], **changes: Any) -> str:
    raw = {
        "task": "recommendation",
        "parameters": parameters,
        "dataset": {"uri": "example://clicks"},
        "output": {"path": "/out"},
    }
    with pytest.raises(ConfigError) as caught:
        config.parse({**raw, **changes})
    return "\n".join(map(str, caught.value.issues))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"label": ""}, "parameters.label: String should have at least 1 character"),
        ({"label": "price"}, "the label 'price' is among the features: it would predict itself; remove it there"),
        ({"numeric": {}, "categorical": {}}, "there are no features; name columns in numeric or categorical"),
        ({"numeric": {"user": "log"}}, "'user' is both numeric and categorical; choose one"),
        ({"numeric": {"price": "square"}}, "parameters.numeric.price: Input should be 'standardise', 'log' or 'none'"),
        ({"categorical": {"user": 1}}, "Input should be greater than or equal to 2"),
        ({"categorical": {"user": []}}, "List should have at least 1 item"),
        ({"categorical": {"device": ["tv", "tv"]}}, "categorical.device lists a value twice"),
        ({"categorical": {f"c{n}": 500_000_000 for n in range(5)}}, "all buckets together are more than 2147483647"),
        ({"crosses": [["user"]]}, "parameters.crosses.0: List should have at least 2 items"),
        ({"crosses": [["user", "item"]]}, "crosses: 'item' is no column in categorical"),
        ({"crosses": [["user", "user"]]}, "names a column twice"),
        ({"crossBuckets": 0}, "parameters.crossBuckets: Input should be greater than or equal to 2"),
        ({"architecture": "deepfm", "categorical": {}}, "deepfm needs at least one column in categorical"),
        ({"architecture": "deepfm", "crosses": [["user", "device"]]}, "crosses are for wide_deep; deepfm learns"),
        ({"architecture": "dlrm"}, "parameters.architecture: Input should be 'wide_deep' or 'deepfm'"),
        ({"embeddingDimension": 0}, "parameters.embeddingDimension: Input should be greater than or equal to 1"),
        ({"hiddenUnits": [64, 0]}, "parameters.hiddenUnits.1: Input should be greater than or equal to 1"),
        ({"wideOptimizer": "adam"}, "parameters.wideOptimizer: Input should be 'ftrl' or 'adagrad'"),
        ({"wideL1": -1}, "parameters.wideL1: Input should be greater than or equal to 0"),
        ({"embeddingLearningRate": 0}, "parameters.embeddingLearningRate: Input should be greater than 0"),
        ({"evaluationFraction": 1}, "parameters.evaluationFraction: Input should be less than 1"),
        ({"onBadRow": "ignore"}, "parameters.onBadRow: Input should be 'fail' or 'skip'"),
        ({"maxBadRows": -1}, "parameters.maxBadRows: Input should be greater than or equal to 0"),
        ({"column": "user"}, "parameters.column: is not a known field; remove it or correct its spelling"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "",
)
def test_bad_declarations_are_refused(change: dict[str, Any], says: str) -> None:
    assert says in issues({**GOOD, **change})


def test_all_mistakes_are_told_at_once() -> None:
    said = issues({**GOOD, "label": "user", "crosses": [["user", "item"], ["device", "device"]]})
    assert all(part in said for part in ("would predict itself", "'item' is no column", "names a column twice"))


def test_a_label_is_required_and_privacy_is_for_those_that_know_it() -> None:
    assert "parameters.label: is required" in issues({})
    budget = {"differentialPrivacy": {"epsilon": 1, "delta": 1e-6}}
    said = issues({}, task="causal-lm", dataset={"uri": "example://python-docs"}, privacy=budget)
    assert "privacy.differentialPrivacy: causal-lm cannot be trained privately" in said
