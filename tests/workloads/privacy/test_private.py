"""DP-SGD: clipped, noised, accounted; on one rank and on two; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modelyard_workloads import config as configuration
from modelyard_workloads.data import clicks
from modelyard_workloads.data.order import PoissonOrder, Shard
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.exits import ConfigError
from modelyard_workloads.models.bert import BertClassifier, BertConfig, pack_rows
from modelyard_workloads.models.bert_private import PrivateBertClassifier
from modelyard_workloads.private import PrivateBackward
from modelyard_workloads.serve.config import ValidationSection
from modelyard_workloads.serve.golden import check_golden
from modelyard_workloads.serve.runtimes import build_runtime
from modelyard_workloads.tasks import build_task
from opacus.accountants import RDPAccountant
from trainings.inprocess import run
from trainings.ranks import run_ranks

BUDGET = {"differentialPrivacy": {"epsilon": 5.0, "delta": 1e-6, "maxGradNorm": 0.5}}
RECOMMENDER: dict[str, Any] = {
    "task": "recommendation",
    "privacy": BUDGET,
    "dataset": {"uri": "example://clicks"},
    "parameters": {
        "label": "clicked",
        "numeric": {"price": "log"},
        "categorical": {"country": clicks.COUNTRIES, "device": clicks.DEVICES},
        "crosses": [["country", "device"]],
        "crossBuckets": 100,
        "embeddingDimension": 4,
        "hiddenUnits": [8],
        "maxSteps": 10,
        "batchSize": 256,
    },
}
IMAGES: dict[str, Any] = {
    "task": "image-classification",
    "privacy": {"differentialPrivacy": {"epsilon": 8.0, "delta": 1e-4}},
    "dataset": {"uri": "example://digits"},
    "parameters": {"architecture": "resnet10", "imageSize": 8, "batchSize": 32, "maxSteps": 3, "smallInputStem": True},
}
TEXTS: dict[str, Any] = {
    "task": "text-classification",
    "privacy": {"differentialPrivacy": {"epsilon": 8.0, "delta": 1e-5}},
    "dataset": {"uri": "example://python-areas"},
    "parameters": {
        "architecture": "tiny",
        "sequenceLength": 24,
        "dropout": 0,
        "tokenizer": "",  # the fixture's
        "learningRate": 1e-3,
        "batchSize": 32,
        "maxSteps": 3,
    },
}
ALL = pytest.mark.parametrize(
    "raw", [RECOMMENDER, IMAGES, TEXTS], ids=["recommendation", "image-classification", "text-classification"]
)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    vocabulary = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    words = ["the", "a", "of", "to", "is", "it", "this", "return", "value", "object", "string", "file", "name"]
    letters = [f"{prefix}{chr(code)}" for prefix in ("", "##") for code in range(ord("a"), ord("z") + 1)]
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters]) + "\n")
    TEXTS["parameters"]["tokenizer"] = vocabulary.as_uri()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def with_parameters(raw: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    return {**raw, "parameters": {**raw["parameters"], **parameters}}


def private(raw: dict[str, Any], steps: int) -> tuple[Any, Any, torch.nn.Module, PrivateBackward]:
    """(task, data, wrapped model, backward)"""
    config = configuration.parse({"output": {"path": "/unused"}, **raw})
    ranks = Ranks(RankInfo())
    task = build_task(config)
    data = task.build_data(Shard(rank=0, world_size=1), ranks.device)
    torch.manual_seed(0)
    model = task.build_model()
    backward = PrivateBackward(config, data, steps, ranks)
    return task, data, backward.wrap(model), backward


@ALL
# the reference differentiates one sample at a time, through the same hooks
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_are_those_of_single_samples_clipped_and_summed(raw: dict[str, Any], parts: int) -> None:
    task, data, model, backward = private(with_parameters(raw, batchSize=8, accumulationSteps=parts), 10)
    backward.noise_multiplier = 0.0
    batch = next(data)
    backward(task, model, batch)
    got = [p.grad.clone() for p in model.parameters() if p.requires_grad and p.grad is not None]

    limit = raw["privacy"]["differentialPrivacy"].get("maxGradNorm", 1.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    expected = [torch.zeros_like(p) for p in trained]
    from modelyard_workloads.backward import divide
    from modelyard_workloads.private import count_samples

    for single in divide(batch, count_samples(batch)):
        loss = task.loss(model, single) * 8  # the loss is a sum over 8
        gradients = torch.autograd.grad(loss, trained)
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for total, gradient in zip(expected, gradients, strict=True):
            total += gradient * min(1.0, limit / float(norm)) / 8
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_noise_is_as_large_as_accounted_and_never_the_same() -> None:
    task, data, model, backward = private(with_parameters(RECOMMENDER, hiddenUnits=[400]), 10)
    batch = next(data)
    draws = []
    for _ in range(2):
        backward(task, model, batch)
        draws.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    difference = draws[0] - draws[1]
    expected = 2**0.5 * backward.noise_multiplier * 0.5 / 256
    assert len(difference) > 1000
    assert float(difference.std()) == pytest.approx(expected, rel=0.1)


@ALL
def test_a_training_stays_within_its_budget_says_so_and_is_served(tmp_path: Path, raw: dict[str, Any]) -> None:
    ended = run(tmp_path, raw)
    assert ended is not None
    budget = raw["privacy"]["differentialPrivacy"]
    assert 0.95 * budget["epsilon"] < ended.metric("epsilon") <= budget["epsilon"]
    assert ended.metric("delta") == budget["delta"]
    for artifact in ended.artifacts.values():
        recorded = artifact.manifest.training.metrics
        assert float(recorded["epsilon"]) == pytest.approx(ended.metric("epsilon"))
        accountant = RDPAccountant()
        count = {"recommendation": 120_000, "image-classification": 1437}.get(raw["task"]) or text_count(tmp_path)
        steps = raw["parameters"]["maxSteps"]
        accountant.history = [(float(recorded["noiseMultiplier"]), raw["parameters"]["batchSize"] / count, steps)]
        assert accountant.get_epsilon(budget["delta"]) == pytest.approx(ended.metric("epsilon"), rel=1e-3)
        assert check_golden(build_runtime(artifact), artifact.manifest.golden, ValidationSection()) < 1e-4


def text_count(output: Path) -> int:
    """The texts that a training learned from, by what it prepared."""
    (starts,) = output.glob("cache/*/train.starts.npy")
    return len(np.load(starts)) - 1


def test_golden_texts_are_made_up(tmp_path: Path) -> None:
    ended = run(tmp_path, TEXTS)
    assert ended is not None
    (golden,) = ended.artifacts["final"].manifest.golden
    assert golden.inputs[0].data[0] == "one text"


def test_rows_side_by_side_are_classified_as_packed_ones() -> None:
    config = BertConfig(vocabulary=64, context=16, layers=2, width=32, heads=2, inner=64, dropout=0)
    torch.manual_seed(0)
    packed, private = BertClassifier(config, 3).eval(), PrivateBertClassifier(config, 3).eval()
    private.load_state_dict(packed.state_dict())
    rows = pack_rows([np.arange(5, 5 + n) for n in (9, 3, 16)], [np.array([0] * 2 + [1] * (n - 2)) for n in (9, 3, 16)])
    torch.testing.assert_close(private(rows), packed(rows), rtol=1e-5, atol=1e-6)


def test_nothing_of_the_data_is_published_beside_the_weights(tmp_path: Path) -> None:
    ended = run(tmp_path, RECOMMENDER)
    assert ended is not None
    manifest = ended.artifacts["best"].manifest
    assert [value.data for value in manifest.golden[0].inputs] == [[0, 1, 2, 3]] + [["0", "1", "2", "3"]] * 2
    assert (manifest.architecture.config["mean"], manifest.architecture.config["std"]) == ([0.0], [1.0])


def test_two_private_runs_differ(tmp_path: Path) -> None:
    one, two = run(tmp_path / "1", RECOMMENDER), run(tmp_path / "2", RECOMMENDER)
    assert one is not None
    assert two is not None
    assert one.artifacts["final"].digest != two.artifacts["final"].digest


def test_a_resumed_run_spends_no_more(tmp_path: Path) -> None:
    calls = 0

    def stop() -> bool:
        nonlocal calls
        calls += 1
        return calls == 4

    assert run(tmp_path, RECOMMENDER, stop) is None
    ended = run(tmp_path, {**RECOMMENDER, "attempt": 2})
    assert ended is not None
    assert ended.result["step"] == 10
    assert ended.metric("epsilon") <= 5.0


def test_two_ranks_add_the_noise_once(tmp_path: Path) -> None:
    """With next to no noise they learn what one does; each rank's own noise would be seen in the metrics."""
    raw = {**with_parameters(RECOMMENDER, maxSteps=4), "output": {"path": str(tmp_path)}}
    environment = {"MODELYARD_CONFIG": json.dumps({**raw, "checkpoint": {"everySeconds": None}})}
    last = run_ranks("modelyard_workloads.train", [], 2, tmp_path / "ranks", environment).splitlines()[-1]
    assert 4.7 < float(json.loads(last)["metrics"]["epsilon"]) <= 5.0


def test_poisson_batches_have_the_right_size_on_average_and_every_sample_the_same_chance() -> None:
    order = PoissonOrder(count=200, batch_size=20, secret=b"some secret")
    draws = [next(order).indices for _ in range(2000)]
    sizes = np.array([len(draw) for draw in draws])
    counts = np.bincount(torch.cat(draws).numpy(), minlength=200)
    assert sizes.mean() == pytest.approx(20, abs=0.5)
    assert sizes.std() == pytest.approx((20 * 0.9) ** 0.5, abs=0.3)
    assert counts.min() > 140
    assert counts.max() < 265
    assert all(len(set(draw.tolist())) == len(draw) for draw in draws)
    other = PoissonOrder(count=200, batch_size=20, secret=b"another secret")
    assert next(other).indices.tolist() != draws[0].tolist()


@pytest.mark.parametrize(
    ("change", "parameters", "says"),
    [
        (
            {"delta": 0.001},
            {},
            r"privacy.differentialPrivacy.delta: 0.001 must be below one over the number of samples",
        ),
        ({"epsilon": 1e-9}, {}, r"privacy.differentialPrivacy.epsilon: 1e-09 cannot be kept over 10 steps"),
        ({}, {"numeric": {"price": "standardise"}}, r"parameters.numeric.price: standardise publishes"),
        ({}, {"crossBuckets": 1_000_000}, r"parameters.categorical: .* at most 107 fit: write accumulationSteps: 3"),
        ({}, {"compile": "on"}, r"parameters.compile: gradients of single samples are not compiled; write auto or off"),
        ({"epsilon": -1}, {}, r"privacy.differentialPrivacy.epsilon: Input should be greater than 0"),
        ({"delta": 2}, {}, r"privacy.differentialPrivacy.delta: Input should be less than 1"),
        ({"maxGradNorm": 0}, {}, r"privacy.differentialPrivacy.maxGradNorm: Input should be greater than 0"),
        ({"sigma": 1}, {}, r"privacy.differentialPrivacy.sigma: is not a known field"),
    ],
)
def test_what_cannot_be_private_is_refused(
    tmp_path: Path, change: dict[str, Any], parameters: dict[str, Any], says: str
) -> None:
    budget = {"differentialPrivacy": {**BUDGET["differentialPrivacy"], **change}}
    with pytest.raises(ConfigError, match=says):
        run(tmp_path, {**with_parameters(RECOMMENDER, **parameters), "privacy": budget})


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"tokenizer": ""}, "parameters.tokenizer: a tokenizer trained on private texts publishes their words"),
        ({"architecture": "base"}, r"parameters.batchSize: .* at most 6 fit: write accumulationSteps: 6"),
    ],
)
def test_what_texts_cannot_keep_private_is_refused(tmp_path: Path, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(tmp_path, with_parameters(TEXTS, **parameters))


def test_architectures_that_mix_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="this architecture cannot be trained privately"):
        run(tmp_path, with_parameters(IMAGES, architecture="mobilenetv3_small_050", smallInputStem=False, imageSize=32))
