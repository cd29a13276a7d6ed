"""From files to rows of tokens: what is learned, what is held out, what stays apart, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from modelyard_workloads.data.bpe import END, TextTokenizer, read_tokenizer, train_tokenizer
from modelyard_workloads.data.chat import ChatTemplate, ChatTemplateError, check_messages
from modelyard_workloads.data.corpus import python_documents
from modelyard_workloads.data.language_documents import Documents
from modelyard_workloads.data.order import Shard
from modelyard_workloads.data.tokens import IGNORED, TokenBatches, TokenRows, prepare, read_counts
from modelyard_workloads.exits import DataError
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.models.next_token import NextTokenLoss, mask_within, positions_within
from modelyard_workloads.parameters.causal_lm import CausalLmParameters
from trainings.language import documents, pairs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """Trained on some of Python's documentation."""
    return train_tokenizer((d.text for d in python_documents()[:40]), 600)


def rows(
    directory: Path, uri: str, tokenizer: TextTokenizer, *, length: int = 32, part: str = "train", **parameters: Any
) -> TokenRows:
    """One part of the prepared data."""
    checked = CausalLmParameters(**{"evaluation_fraction": 0.2, **parameters})
    directory.mkdir()
    prepare(directory, Documents(uri, checked), tokenizer, checked, length)
    return TokenRows(directory, part, length=length, end=tokenizer.end, apart=True)


def test_a_tokenizer_of_our_own_writes_every_text_and_counts_its_bytes(tokenizer: TextTokenizer) -> None:
    text = "def f(x): return 'naïve 雪 \U0001f600'\n\n"
    (tokens,) = tokenizer.encode([text])
    assert tokenizer.tokenizer.decode(tokens) == text
    assert tokenizer.byte_lengths()[tokens].sum() == len(text.encode())
    assert tokenizer.size == 600
    assert tokenizer.byte_lengths()[tokenizer.end] == 0
    again = train_tokenizer((d.text for d in python_documents()[:40]), 600)
    assert again.fingerprint() == tokenizer.fingerprint()


def test_a_tokenizer_is_read_with_or_without_its_configuration(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path, context=64)
    assert read_tokenizer(tmp_path).fingerprint() == tokenizer.fingerprint()
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / name).unlink()
    assert read_tokenizer(tmp_path).end == tokenizer.end
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is no tokenizer that can be read"):
        read_tokenizer(tmp_path)


def test_rows_hold_every_document_once_and_in_order(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    uri = documents(tmp_path / "data")
    train = rows(tmp_path / "out", uri, tokenizer)
    batch = train.batch(np.arange(len(train)), 1, 1)
    assert torch.equal(batch.inputs.flatten()[1:], batch.targets.flatten()[:-1])
    texts = tokenizer.tokenizer.decode(batch.inputs.flatten().tolist(), skip_special_tokens=False).split(END)
    learned = [t.text for t in Documents(uri, CausalLmParameters(evaluation_fraction=0.2)).texts() if not t.held_out]
    assert texts[: len(learned) - 1] == learned[: len(texts) - 1]
    assert len(texts) >= len(learned)
    held_out = TokenRows(tmp_path / "out", "held-out", length=32, end=tokenizer.end, apart=False)
    counts = read_counts(tmp_path / "out")["tokens"]
    assert len(held_out) == (counts["held-out"] - 1) // 32


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_row_comes_once_an_epoch_at_any_number_of_ranks_and_in_the_middle_of_one(
    tokenizer: TextTokenizer, tmp_path: Path, world_size: int
) -> None:
    train = rows(tmp_path / "out", documents(tmp_path / "data"), tokenizer)
    seen: list[tuple[int, ...]] = []
    for rank in range(world_size):
        shard = Shard(rank=rank, world_size=world_size)
        batches = TokenBatches(train, shard, CPU, batch_size=7, seed=1)
        for step in range(batches.steps_per_epoch):
            if step == 3:
                state = batches.state_dict()
                batches = TokenBatches(train, shard, CPU, batch_size=7, seed=1)
                batches.load_state_dict(state)
            batch = next(batches)
            assert batch.scale == pytest.approx(world_size / (7 * 32))
            seen += [tuple(row) for row in batch.inputs.tolist()]
    everything = [tuple(row) for row in train.batch(np.arange(len(train)), 1, 1).inputs.tolist()]
    assert len(seen) == 7 * (len(train) // 7)
    assert len(set(seen) & set(everything)) == len(set(seen))


def test_a_folder_for_validation_is_what_is_held_out(tmp_path: Path) -> None:
    for name, text in (
        ("train/a", "one two three " * 40),
        ("train/b", "four five " * 40),
        ("validation/c", "six " * 99),
    ):
        path = tmp_path / "data" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = list(Documents((tmp_path / "data").as_uri(), CausalLmParameters()).texts())
    assert [(t.text.split()[0], t.ends, t.held_out) for t in found] == [
        ("one", True, False),
        ("four", True, False),
        ("six", True, True),
    ]


def test_parquet_and_json_lines_of_the_same_documents_become_the_same_text(tmp_path: Path) -> None:
    uri = documents(tmp_path / "jsonl")
    texts = [t.text for t in Documents(uri, CausalLmParameters()).texts()]
    (tmp_path / "parquet").mkdir()
    pq.write_table(pa.table({"body": texts}), tmp_path / "parquet" / "documents.parquet")
    found = [t.text for t in Documents((tmp_path / "parquet").as_uri(), CausalLmParameters(text_column="body")).texts()]
    assert found == texts


def test_of_pairs_the_answers_alone_are_learned(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    train = rows(tmp_path / "out", pairs(tmp_path / "data"), tokenizer, length=64, data_format="pairs")
    batch = train.batch(np.arange(len(train)), 1, 1)
    assert batch.documents is not None
    decode = tokenizer.tokenizer.decode
    some = 0
    for inputs, targets, ids in zip(batch.inputs, batch.targets, batch.documents, strict=True):
        for number in ids.unique().tolist():
            mine = ids == number
            text = decode(inputs[mine].tolist(), skip_special_tokens=False)
            answer = decode([t for t in targets[mine].tolist() if t != IGNORED], skip_special_tokens=False)
            if not answer:  # padding
                assert text.strip(END) == ""
                continue
            prompt = text.removeprefix("<|user|>").split("<|assistant|>")[0]
            assert answer == prompt.split()[-1] + END
            some += 1
    assert some > 50
    assert train.learned(np.arange(len(train))) == int((batch.targets != IGNORED).sum())


def test_conversations_of_several_turns_learn_each_answer(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three"), ("assistant", "four")]
    row = json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "chats.jsonl").write_text((row + "\n") * 30)
    train = rows(tmp_path / "out", (tmp_path / "data").as_uri(), tokenizer, length=40, data_format="messages")
    batch = train.batch(np.array([0]), 1, 1)
    learned = [t for t in batch.targets[0].tolist() if t != IGNORED]
    assert tokenizer.tokenizer.decode(learned, skip_special_tokens=False).startswith(f"two{END}four{END}")


def test_of_a_conversation_longer_than_a_row_the_end_is_kept(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    row = json.dumps({"prompt": "word " * 100, "answer": "yes"})
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "pairs.jsonl").write_text((row + "\n") * 30)
    train = rows(tmp_path / "out", (tmp_path / "data").as_uri(), tokenizer, length=16, data_format="pairs")
    batch = train.batch(np.array([0]), 1, 1)  # one row: inputs and targets must not share their memory
    learned = batch.targets[0]
    assert int(batch.inputs.min()) >= 0
    assert tokenizer.tokenizer.decode(learned[learned != IGNORED].tolist(), skip_special_tokens=False) == f"yes{END}"


def test_documents_in_one_row_do_not_see_each_other() -> None:
    torch.manual_seed(1)
    decoder = Decoder(DecoderConfig.llama(vocabulary=50, context=16, layers=2, width=32, heads=2))
    model = NextTokenLoss(decoder).eval()
    one, two = torch.randint(0, 50, (1, 6)), torch.randint(0, 50, (1, 10))
    together = torch.cat([one, two], dim=1)
    ids = torch.tensor([[0] * 6 + [1] * 10])
    apart = model(one, one, torch.zeros_like(one)) + model(two, two, torch.zeros_like(two))
    torch.testing.assert_close(model(together, together, ids), apart, rtol=1e-5, atol=1e-5)
    assert positions_within(ids).tolist() == [[*range(6), *range(10)]]
    assert mask_within(ids).sum() == 21 + 55


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("tied", [True, False])
def test_loss_and_gradients_are_those_of_all_logits_at_once(smoothing: float, tied: bool) -> None:
    torch.manual_seed(2)
    config = DecoderConfig.llama(vocabulary=30_011, context=40, layers=1, width=16, heads=2, tied_head=tied)
    decoder = Decoder(config)
    inputs, targets = torch.randint(0, 30_011, (2, 4, 40))
    names = [name for name, _ in decoder.named_parameters()]
    expected = torch.nn.functional.cross_entropy(
        decoder(inputs).flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=smoothing
    )
    theirs = torch.autograd.grad(expected, list(decoder.parameters()))
    loss = NextTokenLoss(decoder, label_smoothing=smoothing)(inputs, targets)
    ours = torch.autograd.grad(loss, list(decoder.parameters()))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()), msg=name)


@pytest.mark.parametrize(
    ("content", "parameters", "message"),
    [
        ('{"text": "a"}\n{"text": 3', {}, r"rows\.jsonl:2: is not JSON"),
        ('{"body": "a"}\n', {}, r"rows\.jsonl:1: .*column 'text' has no value"),
        ('{"prompt": "a", "answer": " "}\n', {"data_format": "pairs"}, r"rows\.jsonl:1: .*the answer is empty"),
        ('{"messages": []}\n', {"data_format": "messages"}, r"rows\.jsonl:1: .*must be a list of messages"),
        (
            '{"messages": [{"role": "bot", "content": "x"}]}\n',
            {"data_format": "messages"},
            r"message 1 has role 'bot', expected system, user, assistant",
        ),
        (
            '{"messages": [{"role": "user", "content": "x"}]}\n',
            {"data_format": "messages"},
            "has no message of the assistant, so there is nothing to learn",
        ),
        ('{"messages": [{"role": "user"}]}\n', {"data_format": "messages"}, "message 1 must be an object with role"),
        ('{"text": "few"}\n', {}, "the training data has|tokens are held out for evaluation"),
    ],
)
def test_a_bad_row_is_named_with_its_place(
    tokenizer: TextTokenizer, tmp_path: Path, content: str, parameters: dict[str, Any], message: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        rows(tmp_path / "out", (tmp_path / "data").as_uri(), tokenizer, **parameters)


def test_bad_rows_may_be_left_out_up_to_a_limit(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    uri = pairs(tmp_path / "data")
    with (tmp_path / "data" / "pairs.jsonl").open("a") as file:
        file.write('{"prompt": "a", "answer": ""}\n' * 3)
    skip: dict[str, Any] = {"data_format": "pairs", "on_bad_row": "skip"}
    rows(tmp_path / "out", uri, tokenizer, **skip, max_bad_rows=3)
    assert read_counts(tmp_path / "out")["skippedRows"] == 3
    with pytest.raises(DataError, match=r"more than maxBadRows \(2\)"):
        rows(tmp_path / "again", uri, tokenizer, **skip, max_bad_rows=2)


def test_python_documentation_has_documents_alone() -> None:
    with pytest.raises(DataError, match="has documents alone; write dataFormat: text"):
        Documents("example://python-docs", CausalLmParameters(data_format="pairs"))


def test_too_few_rows_for_a_batch_are_refused_with_what_to_change(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    train = rows(tmp_path / "out", documents(tmp_path / "data"), tokenizer)
    with pytest.raises(DataError, match=r"fewer than batchSize \(5000\); lower contextLength or batchSize"):
        TokenBatches(train, Shard(rank=0, world_size=1), CPU, batch_size=5000, seed=0)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "cannot be understood"),
        ("{{ raise_exception('no system here') }}", "no system here"),
        ("{{ messages.__class__.__mro__ }}", "refuses the conversation"),
        ("{{ messages[-1]['content'] }}", "changes earlier turns"),
    ],
)
def test_a_chat_template_that_cannot_be_used_says_why(template: str, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        ChatTemplate(template, end_token=END).pieces(
            check_messages([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        )
