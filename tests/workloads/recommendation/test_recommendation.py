"""The trainer as a whole: what it learns, that it can be interrupted and spread, and what it hands to a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from modelyard_workloads.data import clicks
from modelyard_workloads.data.features import Features
from modelyard_workloads.exits import DataError
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.errors import InvalidInput
from modelyard_workloads.serve.golden import check_golden
from modelyard_workloads.serve.recommendation import Recommendation
from modelyard_workloads.serve.runtimes import build_runtime
from servers.explained import check_sum, explained
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from trainings.inprocess import Ended, run, run_in_pieces
from trainings.ranks import run_ranks

COLUMNS: dict[str, Any] = {
    "label": "clicked",
    "numeric": {"price": "log"},
    "categorical": {
        "user": 20_000,
        "item": 20_000,
        "country": clicks.COUNTRIES,
        "device": clicks.DEVICES,
        "hour": 24,
    },
}
CROSSED = {**COLUMNS, "crosses": [["country", "device"]]}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


CATEGORICAL: dict[str, Any] = COLUMNS["categorical"]


def on_clicks(**parameters: Any) -> dict[str, Any]:
    return {"task": "recommendation", "dataset": {"uri": "example://clicks"}, "parameters": parameters}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """600 rows as CSV, with holes."""
    columns = clicks.generate(600, 5)
    path = tmp_path_factory.mktemp("small") / "clicks.csv"
    names = [name for name in columns if name != "probability"]
    lines = [",".join(names)]
    for index in range(600):
        row = [str(columns[name][index]) for name in names]
        if index % 50 == 7:
            row[names.index("price")] = row[names.index("user")] = ""
        lines.append(",".join(row))
    path.write_text("\n".join(lines))
    return path.as_uri()


def on_small(uri: str, **parameters: Any) -> dict[str, Any]:
    small = {"batchSize": 40, "epochs": 2, "hiddenUnits": [8], "embeddingDimension": 4, "crossBuckets": 100}
    return {"task": "recommendation", "dataset": {"uri": uri}, "parameters": {**CROSSED, **small, **parameters}}


def weights(ended: Ended | None, name: str = "final") -> dict[str, torch.Tensor]:
    assert ended is not None
    return safetensors.torch.load_file(ended.artifacts[name].weights[0])


@pytest.mark.parametrize("parameters", [CROSSED, {**COLUMNS, "architecture": "deepfm"}], ids=["wide_deep", "deepfm"])
def test_it_comes_near_the_best_possible_auc_where_a_line_cannot(tmp_path: Path, parameters: dict[str, Any]) -> None:
    data = clicks.generate(clicks.SAMPLES + clicks.HELD_OUT, clicks.SEED)
    train, test = slice(0, clicks.SAMPLES), slice(clicks.SAMPLES, None)
    best = roc_auc_score(data["clicked"][test], data["probability"][test])
    words = [
        [f"{name}={data[name][index]}" for name in COLUMNS["categorical"]] + [("price", np.log(data["price"][index]))]
        for index in range(len(data["clicked"]))
    ]
    rows = [[w if isinstance(w, tuple) else (w, 1.0) for w in row] for row in words]
    features = FeatureHasher(2**14, input_type="pair").transform(rows)
    line = LogisticRegression(max_iter=100).fit(features[train], data["clicked"][train])
    linear = roc_auc_score(data["clicked"][test], line.decision_function(features[test]))

    ended = run(tmp_path, on_clicks(**parameters))
    assert ended is not None
    auc = ended.metric("auc")
    assert best == pytest.approx(0.8354, abs=1e-3)
    assert linear < 0.64
    assert auc > 0.79
    assert best - auc < 0.25 * (best - linear)
    assert 0.9 < ended.metric("calibration") < 1.1


def test_interrupted_every_few_steps_it_ends_with_the_same_bits(tmp_path: Path, small: str) -> None:
    raw = on_small(small, emaDecay=0.9, accumulationSteps=2, dropout=0.1)
    whole, pieces = run(tmp_path / "whole", raw), run_in_pieces(tmp_path / "pieces", raw, 5)
    assert whole is not None
    assert whole.artifacts["final"].manifest.files == pieces.artifacts["final"].manifest.files
    assert whole.artifacts["best"].manifest.files == pieces.artifacts["best"].manifest.files


def test_one_rank_with_a_batch_of_8_learns_what_two_ranks_with_4_each_learn(tmp_path: Path, small: str) -> None:
    raw = on_small(small, batchSize=8, epochs=1, maxSteps=40)
    alone = weights(run(tmp_path / "alone", raw))
    config = {**raw, "output": {"path": str(tmp_path / "together")}, "checkpoint": {"everySeconds": None}}
    environment = {"MODELYARD_CONFIG": json.dumps(config)}
    last = run_ranks("modelyard_workloads.train", [], 2, tmp_path / "ranks", environment).splitlines()[-1]
    digest = json.loads(last)["artifacts"][-1]["digest"].replace(":", "-")
    together = safetensors.torch.load_file(tmp_path / "together" / "artifacts" / digest / "model.safetensors")
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-6)


def test_what_is_served_takes_one_input_for_each_column_and_explains_by_them(tmp_path: Path, small: str) -> None:
    ended = run(tmp_path, on_small(small))
    assert ended is not None
    runtime = build_runtime(ended.artifacts["best"])
    assert isinstance(runtime, Recommendation)
    assert {(spec.name, spec.datatype) for spec in runtime.inputs} == {
        ("price", "FP32"),
        *((name, "BYTES") for name in COLUMNS["categorical"]),
    }
    golden = ended.artifacts["best"].manifest.golden
    assert len(golden[0].inputs[0].data) == 4
    assert check_golden(runtime, golden, ValidationSection()) < 1e-5

    arrays: dict[str, Any] = {name: np.array([b"1", b"2"], dtype=object) for name in COLUMNS["categorical"]}
    arrays["price"] = np.array([3.5, np.nan], dtype=np.float32)
    runtime.check(arrays)
    answers = runtime.predict(arrays)
    np.testing.assert_allclose(answers["probability"], 1 / (1 + np.exp(-answers["logit"])), rtol=1e-5)
    for name, value, says in [
        ("price", np.array([1.0, np.inf], dtype=np.float32), r"input 'price'\[1\]: must be a finite number"),
        ("user", np.array([b"\xff", b""], dtype=object), r"input 'user'\[0\]: must be UTF-8"),
        ("user", np.array([b"", b"x" * 2000], dtype=object), r"input 'user'\[1\]: must have at most 1024 characters"),
    ]:
        with pytest.raises(InvalidInput, match=says):
            runtime.check({**arrays, name: value})

    instance = {"price": 3.5, **dict.fromkeys(CATEGORICAL, "1"), "country": "de"}
    row = explained(ended.artifacts["best"], instance)
    pieces = {piece["column"]: piece["attribution"] for piece in row["attributions"]}
    assert set(pieces) == {"price", *CATEGORICAL, "country x device"}
    check_sum(row, list(pieces.values()))


def test_whole_numbers_in_the_data_are_whole_numbers_in_requests(tmp_path: Path) -> None:
    ended = run(tmp_path, on_clicks(**CROSSED, maxSteps=2))
    assert ended is not None
    runtime = build_runtime(ended.artifacts["best"])
    kinds = {spec.name: spec.datatype for spec in runtime.inputs}
    assert kinds["user"] == kinds["hour"] == "INT64"
    assert kinds["country"] == "BYTES"
    assert check_golden(runtime, ended.artifacts["best"].manifest.golden, ValidationSection()) < 1e-5
    preprocess = ended.artifacts["best"].manifest.preprocess
    assert Features.from_json(preprocess["features"]).deep_rows == 40_000 + 24 + 11 + 5


def test_data_that_cannot_be_used_is_named(tmp_path: Path, small: str) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"label": "click"}, "has no column 'click'.*did you mean 'clicked'"),
        ({"label": "hour", "categorical": {"item": 10}, "crosses": []}, "column 'hour' must be true or false"),
        ({"numeric": {"country": "log"}, "categorical": {"item": 10}, "crosses": []}, r"csv:2: column 'country' must"),
        ({"batchSize": 10_000}, "fewer than batchSize"),
    ]
    for change, says in cases:
        with pytest.raises(DataError, match=says):
            run(tmp_path, on_small(small, **change))
