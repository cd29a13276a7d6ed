"""example://english-german: the same sentences everywhere, none of the test in the training, and German grammar."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from modelyard_workloads.data.translations import write


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """English -> German, by file."""
    directory = tmp_path_factory.mktemp("pairs")
    write(directory)
    return {name: read(directory / f"{name}.jsonl") for name in ("train", "test")}


def read(path: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["prompt"].removeprefix("Translate into German:\n\n"): row["answer"] for row in rows}


def test_sentences_are_the_same_on_every_machine_and_tested_on_new_ones(
    pairs: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    write(tmp_path)
    assert read(tmp_path / "train.jsonl") == pairs["train"]
    assert (len(pairs["train"]), len(pairs["test"])) == (5720, 280), "as the sample and the page say"
    assert not pairs["train"].keys() & pairs["test"].keys()


def test_new_sentences_have_only_words_that_were_learned(pairs: dict[str, dict[str, str]]) -> None:
    learned = {word.strip(".?").lower() for german in pairs["train"].values() for word in german.split()}
    assert {word.strip(".?").lower() for german in pairs["test"].values() for word in german.split()} <= learned


@pytest.mark.parametrize(
    ("english", "german"),
    [
        ("In summer an aunt wants to find the house.", "Im Sommer will eine Tante das Haus finden."),
        ("Has the big girl sold a house?", "Hat das große Mädchen ein Haus verkauft?"),
        ("Can a baker find an old car?", "Kann ein Bäcker ein altes Auto finden?"),
        ("In the evening the king cleans a bird.", "Am Abend putzt der König einen Vogel."),
        ("Must the old woman buy a tree?", "Muss die alte Frau einen Baum kaufen?"),
    ],
)
def test_verbs_stand_where_german_has_them(pairs: dict[str, dict[str, str]], english: str, german: str) -> None:
    assert pairs["train"][english] == german
