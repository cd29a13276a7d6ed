"""A training as a run of MLflow: what is told, by which attempts, and what happens where nobody listens."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from modelyard_workloads import config as configuration
from modelyard_workloads import tracked_run
from modelyard_workloads.exits import Ending
from modelyard_workloads.mlflow_run import MlflowRun
from modelyard_workloads.watch import Diverged
from servers.tracking import KEY, Tracking, tracking
from trainings.builtin import run
from trainings.pods import SMALL
from trainings.pods import configuration as raw_configuration


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests leave little of the machine."""
    monkeypatch.setattr(tracked_run, "CLOSING_SECONDS", dict.fromkeys(tracked_run.CLOSING_SECONDS, 120))


def environment(made: Tracking, **changes: str) -> dict[str, str]:
    return {"MLFLOW_TRACKING_URI": made.url, "MLFLOW_TRACKING_TOKEN": KEY, **changes}


def parsed(tmp_path: Path) -> configuration.TrainingConfig:
    return configuration.parse(raw_configuration(tmp_path, SMALL))


def test_a_training_is_a_run_with_its_parameters_and_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking() as made:
        for name, value in environment(made, MLFLOW_EXPERIMENT_NAME="digits").items():
            monkeypatch.setenv(name, value)
        result = run(raw_configuration(tmp_path, {**SMALL, "epochs": 1}))
    assert made.experiments == {"digits": "1"}
    (told,) = made.runs.values()
    assert (told["name"], told["status"], told["tags"]["modelyard.uid"]) == ("digits", "FINISHED", "u-1")
    assert told["params"]["architecture"] == "resnet10"
    steps = [step for name, step, _ in told["metrics"] if name == "loss"]
    assert steps == list(range(1, 6))
    (accuracy,) = {value for name, _, value in told["metrics"] if name == "accuracy"}
    assert accuracy == pytest.approx(float(result["metrics"]["accuracy"]), rel=1e-3)


def test_the_attempts_of_a_training_are_one_run(tmp_path: Path) -> None:
    endings: dict[int, Ending] = {1: "stopped", 3: "failed", 5: "complete"}
    with tracking() as made:
        for first, ending in endings.items():
            attempt = MlflowRun.wanted(parsed(tmp_path), environment(made))
            assert attempt is not None
            for step in (first, first + 1):
                attempt.draw(step, {"loss": 1.0 / step, "broken": float("nan")})
            attempt.close(ending)
    (told,) = made.runs.values()
    assert told["statuses"] == ["RUNNING", "SCHEDULED", "RUNNING", "FAILED", "RUNNING", "FINISHED"]
    assert [step for name, step, _ in told["metrics"] if name == "loss"] == [1, 2, 3, 4, 5, 6]
    assert not [m for m in told["metrics"] if m[0] == "broken"], "JSON knows no NaN"
    assert list(made.experiments) == ["modelyard"]


def test_a_training_that_fails_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking() as made:
        for name, value in environment(made).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(Diverged):
            run(raw_configuration(tmp_path, {**SMALL, "learningRate": 100.0, "clipGradientNorm": None}))
    assert [told["status"] for told in made.runs.values()] == ["FAILED"]


def test_a_server_that_does_not_answer_holds_nobody_up(tmp_path: Path) -> None:
    with tracking() as made:
        made.open.clear()
        attempt = MlflowRun.wanted(parsed(tmp_path), environment(made))
        assert attempt is not None
        began = time.monotonic()
        for step in range(5000):
            attempt.draw(step, {"loss": 1.0})
        assert time.monotonic() - began < 5
        made.open.set()
        attempt.close("complete")
    assert made.runs["r1"]["status"] == "FINISHED"


@pytest.mark.parametrize("uri", ["http://user:hidden@127.0.0.1:1", "SERVER"])
def test_a_server_that_is_away_or_refuses_is_told_once_and_without_its_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, uri: str
) -> None:
    with tracking() as made, caplog.at_level(logging.WARNING):
        address = uri.replace("SERVER", made.url)
        told = environment(made) | {"MLFLOW_TRACKING_URI": address, "MLFLOW_TRACKING_TOKEN": "another"}
        attempt = MlflowRun.wanted(parsed(tmp_path), told)
        assert attempt is not None
        attempt.draw(1, {"loss": 1.0})
        attempt.close("complete")
    assert caplog.text.count("MLflow is told no more of this attempt") == 1
    assert "hidden" not in caplog.text and "another" not in caplog.text


def test_without_a_server_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert MlflowRun.wanted(parsed(tmp_path), {}) is None
    assert MlflowRun.wanted(parsed(tmp_path), {"MLFLOW_TRACKING_URI": "sqlite:///here.db"}) is None
    assert "does not begin with http:// or https://" in caplog.text
