"""The marks and curves of a run: every step is new once, and drawn once, however often it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelyard_workloads import config as configuration
from modelyard_workloads.curves import Curves
from modelyard_workloads.exporter import Exporter
from modelyard_workloads.highwater import HighWater
from modelyard_workloads.tasks import build_task
from modelyard_workloads.tasks.base import Metered
from prometheus_client import generate_latest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings.pods import configuration as raw_configuration


def test_steps_up_to_the_highest_ever_reached_are_repetition(tmp_path: Path) -> None:
    first = HighWater(tmp_path, "u-1")
    assert first.before == 0
    first.reached(7)
    second = HighWater(tmp_path, "u-1")
    assert second.before == 7
    first.reached(90)  # a zombie: its file has no name any more
    second.reached(5)
    assert HighWater(tmp_path, "u-1").before == 7
    assert HighWater(tmp_path, "u-2").before == 0


def test_a_resumed_run_takes_back_the_points_after_the_step_it_resumes_from(tmp_path: Path) -> None:
    for resumed, steps in ((0, range(1, 9)), (5, range(6, 12))):
        curves = Curves(tmp_path, resumed)
        for step in steps:
            curves.draw(step, {"loss": step + resumed / 10})
        curves.close("complete")
        curves.draw(99, {"loss": 0.0})  # closed: without effect
    drawn = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [point.step for point in drawn] == list(range(1, 12))
    assert drawn[-1].value == pytest.approx(11.5)


def test_without_a_place_for_curves_training_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Curves(tmp_path / "file", 0).draw(1, {"loss": 1.0})


def test_what_a_task_counts_besides_samples_is_a_rate_of_its_own(tmp_path: Path) -> None:
    raw = raw_configuration(tmp_path, {"batchSize": 4, "contextLength": 32}, task="causal-lm")
    raw["dataset"]["uri"] = "example://python-docs"
    task = build_task(configuration.parse(raw))
    assert isinstance(task, Metered)
    exporter = Exporter("tests", "words")
    exporter.progress({"step": 3, "rates": {"tokensPerSecond": 128.0}, "metrics": {"loss": 2.0}})
    text = generate_latest(exporter.registry).decode()
    assert 'modelyard_training_tokens_per_second{name="words",namespace="tests"} 128.0' in text
