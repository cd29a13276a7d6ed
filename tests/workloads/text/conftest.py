"""A small corpus, and an encoder pretrained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trainings.builtin import artifact, configuration, run
from trainings.texts import SMALL, texts


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "topics.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts()))
    return path.as_uri()


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: str) -> tuple[Path, dict[str, Any]]:
    """An artifact that has learned a little, and the result."""
    config = configuration("bert-pretraining", tmp_path_factory.mktemp("trained"), corpus, {**SMALL, "maxSteps": 40})
    result = run(config)
    return artifact(result, config), result
