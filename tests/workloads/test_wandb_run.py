"""A training as a run of Weights & Biases: what its own package has written, offline."""

from __future__ import annotations

import importlib
import json
import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from modelyard_workloads import config as configuration
from modelyard_workloads import tracked_run
from modelyard_workloads.exits import Ending
from modelyard_workloads.wandb_run import WandbRun
from trainings.builtin import run
from trainings.pods import SMALL
from trainings.pods import configuration as raw_configuration

OWN_HEADER = b":W&B___"
HEADER = struct.Struct("<IHB")  # of a part: checksum, length, kind
BLOCK = 32 << 10
FULL, LAST = 1, 4


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests leave little of the machine."""
    monkeypatch.setattr(tracked_run, "CLOSING_SECONDS", dict.fromkeys(tracked_run.CLOSING_SECONDS, 120))


def records(directory: Path) -> Iterator[Any]:
    """What the package would send: a file in the format of LevelDB's log, behind seven bytes of its own.

    https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    Record = importlib.import_module("wandb.proto.wandb_internal_pb2").Record  # made at run time: no types

    (file,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    data, position, parts = file.read_bytes(), len(OWN_HEADER), b""
    assert data.startswith(OWN_HEADER[:4])
    while len(data) - position >= HEADER.size:
        if BLOCK - position % BLOCK < HEADER.size:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        parts += data[position : position + length]
        position += length
        if kind in (FULL, LAST):
            yield Record.FromString(parts)
            parts = b""


def test_a_training_is_a_run_with_its_parameters_and_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_PROJECT": "pictures"}.items():
        monkeypatch.setenv(name, value)
    result = run(raw_configuration(tmp_path / "out", {**SMALL, "epochs": 1}))
    told = list(records(tmp_path))
    (made,) = [record.run for record in told if record.WhichOneof("record_type") == "run"]
    assert (made.project, made.run_id, made.display_name) == ("pictures", "u-1", "digits")
    assert {item.key: item.value_json for item in made.config.update}["architecture"] == '"resnet10"'
    rows = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in told
        if record.WhichOneof("record_type") == "history"
    ]
    assert [row["_step"] for row in rows if "loss" in row] == list(range(1, 6))
    (accuracy,) = [row["accuracy"] for row in rows if "accuracy" in row]
    assert accuracy == pytest.approx(float(result["metrics"]["accuracy"]), rel=1e-3)
    assert told[-1].WhichOneof("record_type") in ("exit", "final", "footer")


def processes_of_the_package() -> list[str]:
    """Names of this process's children that are the package's own: what has not ended may not have written."""
    children = Path("/proc/self/task").glob("*/children")
    names = [Path(f"/proc/{child}/comm").read_text().strip() for file in children for child in file.read_text().split()]
    return [name for name in names if name.startswith("wandb")]


def parsed(tmp_path: Path) -> configuration.TrainingConfig:
    return configuration.parse(raw_configuration(tmp_path, SMALL))


@pytest.mark.parametrize(("ending", "code"), [("complete", 0), ("stopped", 1), ("failed", 1)])
def test_it_is_told_how_an_attempt_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: Ending, code: int
) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    attempt = WandbRun.wanted(parsed(tmp_path), os.environ)
    assert attempt is not None
    attempt.draw(1, {"loss": 1.0})
    attempt.close(ending)
    assert processes_of_the_package() == []
    told = list(records(tmp_path))
    assert [record.exit.exit_code for record in told if record.WhichOneof("record_type") == "exit"] == [code]
    assert any(record.WhichOneof("record_type") == "preempting" for record in told) == (ending == "stopped")


def test_an_image_without_the_package_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with caplog.at_level(logging.WARNING):
        assert WandbRun.wanted(parsed(tmp_path), {"WANDB_API_KEY": "hidden"}) is None
    assert "wandb is not in this image" in caplog.text and "hidden" not in caplog.text


@pytest.mark.parametrize("environment", [{}, {"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}], ids=["none", "off"])
def test_it_is_told_nothing_where_nobody_asks(tmp_path: Path, environment: dict[str, str]) -> None:
    assert WandbRun.wanted(parsed(tmp_path), environment) is None
