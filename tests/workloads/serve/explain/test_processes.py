"""The process beside the server explains every kind of task: it builds the model from the artifact by itself.

Text tasks and recommendation have theirs where their trainings are tested.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from modelyard_workloads.serve.image_classification import ImageClassification
from servers.artifacts import image_artifact
from servers.explained import check_sum, explained
from servers.language import language_artifact


def test_the_tokens_of_a_prompt_account_for_its_continuation(tmp_path: Path) -> None:
    row = explained(language_artifact(tmp_path), "abc")
    assert [piece["token"] for piece in row["attributions"]] == ["a", "b", "c"]
    check_sum(row, [piece["attribution"] for piece in row["attributions"]])
    assert row["complete"]


def test_the_pixels_of_a_picture_account_for_its_label(tmp_path: Path) -> None:
    artifact = image_artifact(tmp_path)
    pixels = np.random.default_rng(2).random((1, 1, 8, 8), dtype=np.float32)
    (served,) = ImageClassification(artifact).predict({"image": pixels})["label"]
    row = explained(artifact, pixels[0].tolist())
    assert row["target"] == served.decode()
    assert np.shape(row["attributions"]) == (1, 8, 8)
    check_sum(row, row["attributions"])
