"""bert-pretraining: what it is fed, that ranks and stops change nothing, and that others can use what it makes."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelyard_workloads.data.corpus import is_held_out
from modelyard_workloads.data.documents import sentences
from modelyard_workloads.data.order import Shard
from modelyard_workloads.data.pretraining_text import PretrainingBatch, PretrainingRows, held_out_batches
from modelyard_workloads.data.token_file import open_tokens, write_tokens
from modelyard_workloads.data.wordpiece import MASK, SEPARATOR, special_id, train_wordpiece
from modelyard_workloads.exits import DataError
from modelyard_workloads.parameters.text import BertPretrainingParameters
from tokenizers import Tokenizer
from trainings.builtin import artifact, configuration, run
from trainings.texts import GIVEN, SMALL, texts

transformers: Any = import_module("transformers")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_wordpiece(lambda: texts(8), 400, lowercase=True)


def rows(directory: Path, tokenizer: Tokenizer, **changes: Any) -> PretrainingRows:
    write_tokens(tokenizer, texts(8), directory, "train")
    parameters = BertPretrainingParameters(sequence_length=32, **changes)
    return PretrainingRows(open_tokens(directory, "train"), tokenizer, parameters)


def batch(source: PretrainingRows, shard: Shard, windows: int = 7) -> PretrainingBatch:
    chosen = torch.arange(3, 3 + windows)
    return source.batch(chosen, torch.Generator().manual_seed(4), shard, torch.device("cpu"))


def test_a_text_is_parted_into_sentences() -> None:
    text = "The first one.  The second,\ncontinued here: e.g. this.\n\na paragraph without an end\n\nDone!"
    assert sentences(text) == [
        "The first one.",
        "The second,\ncontinued here: e.g. this.",
        "a paragraph without an end",
        "Done!",
    ]


def test_a_tokenizer_is_trained_alike_every_time(tokenizer: Tokenizer) -> None:
    again = train_wordpiece(lambda: texts(8), 400, lowercase=True)
    assert again.to_str() == tokenizer.to_str()
    assert tokenizer.get_vocab_size() == 400
    assert tokenizer.encode("The for statement").tokens == ["[CLS]", "the", "for", "statement", "[SEP]"]


def test_rows_hide_the_asked_for_share_of_text_and_never_a_special_token(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = rows(tmp_path, tokenizer, mask_probability=0.25)
    made = batch(source, Shard(rank=0, world_size=1), windows=60)
    lengths = np.array(made.rows.lengths)
    assert made.counts == tuple(np.round((lengths - 3) * 0.25).astype(int))
    assert made.all_targets == len(made.targets) == sum(made.counts)
    seen = made.rows.tokens[made.masked]
    mask = special_id(tokenizer, MASK)
    assert 0.72 < float((seen == mask).float().mean()) < 0.88
    assert 0.04 < float((seen == made.targets).float().mean()) < 0.18
    assert special_id(tokenizer, SEPARATOR) not in made.targets
    assert 0.3 < float(made.strangers.float().mean()) < 0.6


def test_the_second_text_follows_unless_it_is_a_stranger(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = rows(tmp_path, tokenizer)
    made = batch(source, Shard(rank=0, world_size=1), windows=60)
    everything = open_tokens(tmp_path, "train").tokens.astype(np.int64).tolist()
    text = " ".join(map(str, everything))
    ids = made.rows.tokens.clone()
    ids[made.masked] = made.targets
    for row, kinds, stranger in zip(
        torch.split(ids, list(made.rows.lengths)),
        torch.split(made.rows.types, list(made.rows.lengths)),
        made.strangers.tolist(),
        strict=True,
    ):
        one, two = row[kinds == 0].tolist()[1:-1], row[kinds == 1].tolist()[:-1]
        assert one
        assert two
        assert (" ".join(map(str, one + two)) in text) == (not stranger)
        assert " ".join(map(str, two)) in text


@pytest.mark.parametrize("pairs", [True, False])
def test_the_length_of_rows_is_told_for_the_tokens_of_a_second(
    tmp_path: Path, tokenizer: Tokenizer, pairs: bool
) -> None:
    source = rows(tmp_path, tokenizer, next_sentence=pairs)
    windows = torch.arange(len(source))
    made = source.batch(windows, torch.Generator().manual_seed(4), Shard(rank=0, world_size=1), torch.device("cpu"))
    assert source.mean_length == pytest.approx(len(made.rows.tokens) / len(source), rel=0.1)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_and_parts_see_together_what_one_rank_sees_alone(
    tmp_path: Path, tokenizer: Tokenizer, world_size: int
) -> None:
    source = rows(tmp_path, tokenizer)
    alone = batch(source, Shard(rank=0, world_size=1))
    shares = [batch(source, Shard(rank=rank, world_size=world_size)) for rank in range(world_size)]
    for pieces in (shares, alone.parts(world_size)):
        assert torch.equal(torch.cat([p.rows.tokens for p in pieces]), alone.rows.tokens)
        assert torch.equal(torch.cat([p.rows.types for p in pieces]), alone.rows.types)
        assert torch.equal(torch.cat([p.targets for p in pieces]), alone.targets)
        assert torch.equal(torch.cat([p.strangers for p in pieces]), alone.strangers)
        assert all(p.all_targets == alone.all_targets and p.all_rows == 7 for p in pieces)
        for piece in pieces:
            places = [int(p) for p in piece.masked]
            assert places == sorted(set(places))
            assert int(piece.masked.max()) < len(piece.rows.tokens)


def test_held_out_rows_are_the_same_every_time_and_each_is_seen_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    source = rows(tmp_path, tokenizer, next_sentence=False)
    cpu = torch.device("cpu")
    first, second = (list(held_out_batches(source, 16, Shard(rank=0, world_size=1), cpu)) for _ in range(2))
    assert all(torch.equal(a.rows.tokens, b.rows.tokens) for a, b in zip(first, second, strict=True))
    halves = [list(held_out_batches(source, 16, Shard(rank=rank, world_size=2), cpu)) for rank in range(2)]
    assert sum(len(b.counts) for half in halves for b in half) == len(source)


def test_the_loss_falls_and_the_metrics_stand_beside_their_baselines(trained: tuple[Path, dict[str, Any]]) -> None:
    metrics = {name: float(value) for name, value in trained[1]["metrics"].items()}
    assert metrics["loss"] < 6.6  # ln 512 + ln 2 = 6.93
    assert 0 < metrics["mostFrequentTokenAccuracy"] < 0.2
    assert 0.5 <= metrics["majorityAccuracy"] < 0.8


def test_transformers_reads_the_artifact_with_the_same_tokens_and_logits(trained: tuple[Path, dict[str, Any]]) -> None:
    from modelyard_workloads.tasks.bert_inference import load_pretrained

    directory = trained[0]
    theirs = transformers.AutoModelForPreTraining.from_pretrained(directory).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    text, following = f"The for statement {MASK} used to iterate.", "It is a loop."
    ours = load_pretrained(directory, "BertForPreTraining")
    inputs = their_tokenizer(text, following, return_tensors="pt")
    answer = theirs(**inputs)
    found = ours({"text": np.array([text.encode()], object), "next_text": np.array([following.encode()], object)})
    place = inputs["input_ids"][0].tolist().index(their_tokenizer.mask_token_id)
    best = answer.prediction_logits[0, place].softmax(dim=0).topk(5).values
    torch.testing.assert_close(torch.from_numpy(found["scores"][0]), best, rtol=1e-5, atol=1e-5)
    next_probability = answer.seq_relationship_logits.softmax(dim=1)[0, 0]
    assert float(found["next_probability"][0]) == pytest.approx(next_probability.item(), abs=1e-5)


def test_a_training_goes_on_from_an_artifact_and_from_transformers_files(
    tmp_path: Path, corpus: str, trained: tuple[Path, dict[str, Any]]
) -> None:
    directory, before = trained
    theirs = tmp_path / "theirs"
    transformers.AutoModelForPreTraining.from_pretrained(directory).save_pretrained(theirs)
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(theirs)
    losses = []
    for number, model in enumerate((directory.as_uri(), theirs.as_uri())):
        parameters = {**GIVEN, "maxSteps": 1, "learningRate": 1e-6}
        result = run(configuration("bert-pretraining", tmp_path / str(number), corpus, parameters, model=model))
        losses.append(float(result["metrics"]["evaluationLoss"]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[0] == pytest.approx(float(before["metrics"]["evaluationLoss"]), abs=0.01)


def test_text_files_and_a_given_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("\n\n".join(texts(24)))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    given = {**GIVEN, "architecture": "tiny", "tokenizer": (tmp_path / "tokenizer.json").as_uri()}
    parameters = {**given, "maxSteps": 1, "nextSentence": False}
    config = configuration("bert-pretraining", tmp_path / "out", data.as_uri(), parameters)
    result = run(config)
    assert "nextSentenceAccuracy" not in result["metrics"]
    raw = json.loads((artifact(result, config) / "config.json").read_text())
    assert raw["architectures"] == ["BertForMaskedLM"]
    assert raw["vocab_size"] == 448  # 400 in full 64s
    (cache,) = (tmp_path / "out" / "cache").iterdir()
    before = cache.stat().st_mtime_ns
    run({**config, "attempt": 2, "checkpoint": {"resume": "Never"}})
    assert [path.stat().st_mtime_ns for path in (tmp_path / "out" / "cache").iterdir()] == [before]


def two_documents() -> str:
    """One to train on, one to evaluate with."""
    parts: dict[bool, str] = {is_held_out(text, 0.5): text for text in texts()}
    return "".join(json.dumps({"text": text}) + "\n" for text in parts.values())


def test_unusable_data_is_explained(tmp_path: Path) -> None:
    def message(name: str, content: str, **parameters: Any) -> str:
        path = tmp_path / name
        path.write_text(content)
        config = configuration("bert-pretraining", tmp_path / "out", path.as_uri(), {**SMALL, **parameters})
        with pytest.raises(DataError) as raised:
            run(config)
        return str(raised.value)

    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts(6))
    assert "a.jsonl:1: column 'content' has no value" in message("a.jsonl", rows, textColumn="content")
    assert "b.jsonl:7: column 'text' has no value" in message("b.jsonl", rows + '{"txt": "x"}\n')
    assert "c.txt has 1 documents" in message("c.txt", "One short text of a few words, and not more.")
    assert "the texts are empty" in message("d.txt", "\n\n")
    assert "nextSentence needs at least 2 documents" in message("e.jsonl", two_documents(), evaluationFraction=0.5)
