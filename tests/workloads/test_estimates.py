"""Estimates against what is known: parameters of real models, what a step really allocates, memory figures that are
given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard_workloads import hardware
from modelyard_workloads.config import TrainingConfig, parse
from modelyard_workloads.data.order import Shard
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.estimates import demand
from modelyard_workloads.estimates.demand import Demand, bytes_of, check_memory, step_seconds
from modelyard_workloads.estimates.transformers import (
    Arithmetic,
    adapter_parameters,
    decoder_demand,
    decoder_parameters,
)
from modelyard_workloads.exits import ConfigError
from modelyard_workloads.loop import Training
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.models.lora import add_adapters
from modelyard_workloads.parameters.causal_lm import CausalLmParameters, LoraParameters
from modelyard_workloads.tasks import build_task
from torch.profiler import ProfilerActivity, profile
from trainings.builtin import configuration
from trainings.texts import squad, texts

GPT2 = DecoderConfig.gpt2(vocabulary=50257, context=1024, layers=12, width=768, heads=12)
GIB = 1 << 30
TOLERANCE = 0.25

TEXT = {"architecture": "tiny", "vocabularySize": 1024, "sequenceLength": 64, "batchSize": 128}
DECODER = {"layers": 2, "width": 128, "heads": 4, "vocabularySize": 512, "contextLength": 64, "batchSize": 128}
COLUMNS: dict[str, Any] = {"label": "clicked", "numeric": {"price": "log"}, "categorical": {"user": 30_000, "hour": 24}}
VIT = {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "batchSize": 32}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("bert-pretraining", "prose", TEXT),
    ("text-classification", "prose", {**TEXT, "batchSize": 64, "emaDecay": 0.9, "attentionDropout": 0.1}),
    ("token-classification", "example://python-code", {**TEXT, "optimizer": "sgd", "dropout": 0.0}),
    ("question-answering", "squad", {**TEXT, "stride": 16}),
    ("causal-lm", "prose", DECODER),
    ("causal-lm", "prose", {**DECODER, "architecture": "llama", "optimizer": "muon", "keyValueHeads": 2}),
    ("image-classification", "example://digits", {"architecture": "resnet18", "imageSize": 32, "batchSize": 256}),
    (
        "image-classification",
        "example://digits",
        {"architecture": "vit_tiny_patch16_224", "imageSize": 64, "batchSize": 32},
    ),
    ("recommendation", "example://clicks", {**COLUMNS, "batchSize": 8192, "hiddenUnits": [64]}),
    (
        "recommendation",
        "example://clicks",
        {**COLUMNS, "batchSize": 8192, "architecture": "deepfm"},
    ),
]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One for all, so that tokens are made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("output")


def address(output: Path, data: str) -> str:
    """That of an example, or of a small file that is written."""
    if data.startswith("example://"):
        return data
    directory = output / data
    directory.mkdir(exist_ok=True)
    if data == "squad":
        (directory / "train.json").write_text(json.dumps(squad(range(300))))
    else:
        (directory / "rows.jsonl").write_text(
            "\n".join(json.dumps({"text": text, "label": len(text) % 2}) for text in texts(80))
        )
    return directory.as_uri()


def estimated(config: TrainingConfig) -> Demand:
    task: Any = build_task(config)
    task.build_data(Shard(rank=0, world_size=1), torch.device("cpu"))
    before = torch.get_rng_state()
    found: Demand = task.demand()
    assert torch.equal(torch.get_rng_state(), before), "the initial weights would be others"
    return found


def allocated(config: TrainingConfig) -> tuple[int, int]:
    """The most bytes of tensors at once while a training is made and takes two steps; its parameters."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        ranks = Ranks(RankInfo())
        training = Training(build_task(config), config, ranks)
        model = training.prepare(ranks)
        for _ in range(2):
            training.step(model, next(training.data))
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most, sum(p.numel() for p in training.model.parameters())


@pytest.mark.parametrize(("task", "data", "parameters"), CASES)
def test_a_step_allocates_what_is_estimated(output: Path, task: str, data: str, parameters: dict[str, Any]) -> None:
    config = parse(configuration(task, output, address(output, data), parameters))
    need, (really, count) = estimated(config), allocated(config)
    assert need.parameters == count
    assert bytes_of(need, config.parameters.batch_size) == pytest.approx(really, rel=TOLERANCE)
    assert need.flops > 0


@pytest.mark.parametrize("case", [0, 1, 6, 8])
def test_a_batch_that_cannot_fit_is_refused_with_the_largest_that_does(
    output: Path, monkeypatch: pytest.MonkeyPatch, case: int
) -> None:
    task, data, parameters = CASES[case]
    raw = configuration(task, output, address(output, data), parameters)
    size = parameters["batchSize"]
    need = estimated(parse(raw))
    half = bytes_of(need, size // 2) + need.state.copy_bytes
    monkeypatch.setattr(demand, "available_memory", lambda _processes: int(half / 0.92) + 1)
    with pytest.raises(ConfigError, match=rf"^parameters.batchSize: {size} needs about ") as caught:
        Training(build_task(parse(raw)), parse(raw), Ranks(RankInfo()))
    assert str(caught.value).endswith(f"write accumulationSteps: 2, or batchSize: {size // 2} or less")
    for changes in ({"batchSize": size // 2}, {"accumulationSteps": 2}):
        raw["parameters"] = {**parameters, **changes}
        Training(build_task(parse(raw)), parse(raw), Ranks(RankInfo()))


def test_where_memory_grows_by_itself_nothing_is_refused(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = configuration(CASES[6][0], output, "example://digits", CASES[6][2])
    monkeypatch.setattr(demand, "available_memory", lambda _processes: 1 << 20)
    with pytest.raises(ConfigError, match=r"not one row fits .* take a smaller architecture, or a smaller imageSize"):
        Training(build_task(parse(raw)), parse(raw), Ranks(RankInfo()))
    Training(build_task(parse(raw)), parse({**raw, "memoryGrows": True}), Ranks(RankInfo()))


@pytest.mark.parametrize(("text", "limit"), [("2147483648\n", 2 * GIB), ("max\n", None), ("9223372036854771712", None)])
def test_the_containers_limit_is_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int | None
) -> None:
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(hardware, "_MEMORY_LIMITS", (tmp_path / "missing", tmp_path / "memory.max"))
    assert hardware.memory_limit() == limit
    found = hardware.available_memory(2)
    assert found is None if limit is None else found is not None and 0 <= found < GIB


def need(changes: str = "", **parameters: Any) -> Demand:
    """Of GPT-2 with rows of 1,024 tokens in bfloat16 on a GPU."""
    by = Arithmetic(number=2, fused=True)
    ranks = 4 if changes == "shared" else 1
    return decoder_demand(GPT2, 1024, CausalLmParameters(**parameters), by, ranks=ranks)


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        DecoderConfig.llama(vocabulary=512, context=64, layers=2, width=64, heads=4, key_value_heads=2),
        DecoderConfig.llama(vocabulary=512, context=64, layers=3, width=96, heads=4, tied_head=False),
    ],
)
def test_parameters_of_decoders_are_counted_exactly(config: DecoderConfig) -> None:
    with torch.device("meta"):
        model = Decoder(config)
    assert decoder_parameters(config) == sum(p.numel() for p in model.parameters())
    for layers in ("attention", "all"):
        lora = LoraParameters(rank=4, layers=layers)
        with torch.device("meta"):
            model = Decoder(config)
            add_adapters(model, rank=4, alpha=1.0, dropout=0.0, layers=lora.layers)
        assert adapter_parameters(config, lora) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_gpt2_is_what_it_is_known_to_be() -> None:
    count = 124_439_808
    assert decoder_parameters(GPT2) == count
    assert need().state.device_bytes == 16 * count
    assert need(optimizer="sgd").state.device_bytes == 12 * count
    assert need(ema_decay=0.9).state.device_bytes == 20 * count
    assert need("shared", sharding="full").state.device_bytes == 4 * count
    adapted = need(lora=LoraParameters(rank=8)).state.device_bytes
    assert 4 * count < adapted < 4.2 * count + 16 * 1.2e6
    assert 0.05 < step_seconds(need(), 60, "cuda") < 0.5  # six operations a parameter and token


def test_a_batch_that_fits_is_accepted_and_a_larger_one_is_told_what_fits() -> None:
    assert check_memory(need(), 80 * GIB, batch_size=16, ranks=1, parts=1) < 80 * GIB
    with pytest.raises(ConfigError) as caught:
        check_memory(need(), 16 * GIB, batch_size=512, ranks=2, parts=1)
    message = str(caught.value)
    assert message.startswith("parameters.batchSize: 512 needs about")
    steps, batch = (
        int(word.split(": ")[1].split()[0].strip(",")) for word in message.split("write ")[1].split(", or ")
    )
    check_memory(need(), 16 * GIB, batch_size=512, ranks=2, parts=steps)
    check_memory(need(), 16 * GIB, batch_size=batch, ranks=2, parts=1)
    with pytest.raises(ConfigError):
        check_memory(need(), 16 * GIB, batch_size=batch + 2, ranks=2, parts=1)


def test_a_model_that_cannot_fit_says_what_else_there_is() -> None:
    with pytest.raises(ConfigError, match=r"not one row fits beside 1\.9 GiB of weights and optimizer state"):
        check_memory(need(), GIB, batch_size=8, ranks=1, parts=1)
