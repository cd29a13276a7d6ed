"""The process beside the server explains prompts too: it builds the model from the artifact by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers.explained import explained
from servers.language import language_artifact


def test_the_tokens_of_a_prompt_account_for_its_continuation(tmp_path: Path) -> None:
    row = explained(language_artifact(tmp_path), "abc")
    assert [piece["token"] for piece in row["attributions"]] == ["a", "b", "c"]
    total = sum(piece["attribution"] for piece in row["attributions"])
    assert total == pytest.approx(row["output"] - row["baseline"], rel=0.01, abs=1e-3)
    assert row["complete"]
