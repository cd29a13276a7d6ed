"""What the common parameters change in a run: each of them something, in milliseconds and one process."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard_workloads.backward import Backward, compile_model, divide, uses_bf16
from modelyard_workloads.config import CheckpointPolicy, Location, Output, TrainingConfig, check_batch_size
from modelyard_workloads.data.order import Shard
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.exits import ConfigError, Stopped
from modelyard_workloads.loop import Training, train
from modelyard_workloads.metrics import Reporter
from modelyard_workloads.muon import Muon, orthogonalised
from modelyard_workloads.optimizer import build_optimizer
from modelyard_workloads.parameters import Parameters
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket, HashStore
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel
from trainings.toy import ToyTask, after

CPU = torch.device("cpu")


def configured(output: Path, **parameters: Any) -> TrainingConfig:
    """A run of the toy: 8 steps an epoch, 24 in all."""
    defaults = {"epochs": 3, "batch_size": 13, "learning_rate": 0.05}
    return TrainingConfig(
        task="toy",
        parameters=Parameters(**(defaults | parameters)),
        dataset=Location(uri="toy"),
        output=Output(path=output),
        checkpoint=CheckpointPolicy(every_seconds=None),
    )


def trained(output: Path, **parameters: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The result of a whole run and its final weights."""
    import safetensors.torch

    task = ToyTask(plain=True, batch_size=13)
    result = train(task, configured(output, **parameters), Ranks(RankInfo()), Reporter(rank=1), lambda: False)
    final = next(a for a in result["artifacts"] if "final" in a["name"])
    path = output / "artifacts" / final["uri"].rsplit("/", 1)[1] / "model.safetensors"
    return result, safetensors.torch.load_file(path)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"precision": "bf16"}),
        ({}, {"optimizer": "adamw"}),
        ({}, {"optimizer": "muon"}),
        ({}, {"schedule": "wsd"}),
        ({}, {"max_steps": 10}),
        ({}, {"warmup_epochs": 0}),
        ({}, {"clip_gradient_norm": 0.01}),
        ({"optimizer": "adamw"}, {"momentum": 0.5}),
        ({"optimizer": "adamw"}, {"beta2": 0.9}),
        ({"optimizer": "adamw"}, {"epsilon": 0.1}),
        ({"optimizer": "adamw"}, {"weight_decay": 0.5}),
        ({"optimizer": "muon"}, {"weight_decay": 0.5}),
    ],
)
def test_a_parameter_changes_what_is_learned(tmp_path: Path, base: dict[str, Any], change: dict[str, Any]) -> None:
    _, before = trained(tmp_path / "before", **base)
    _, after_it = trained(tmp_path / "after", **base, **change)
    assert any(not torch.equal(before[name], after_it[name]) for name in before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_a_run_stopped_in_the_middle_of_an_epoch_ends_with_the_same_bits_whatever_the_optimizer(
    tmp_path: Path, optimizer: str
) -> None:
    parameters = {"optimizer": optimizer, "accumulation_steps": 2, "precision": "bf16"}
    _, whole = trained(tmp_path / "whole", **parameters)
    task = ToyTask(plain=True, batch_size=13)
    with pytest.raises(Stopped):
        train(task, configured(tmp_path / "cut", **parameters), Ranks(RankInfo()), Reporter(rank=1), after(11))
    result, resumed = trained(tmp_path / "cut", **parameters)
    assert result["step"] == 24
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_max_steps_ends_a_run_in_the_middle_of_an_epoch_with_an_evaluation(tmp_path: Path) -> None:
    result, _ = trained(tmp_path, max_steps=10)
    assert (result["step"], result["totalSteps"]) == (10, 10)
    assert "accuracy" in result["metrics"]


def test_early_stopping_ends_a_run_whose_evaluations_are_no_better(tmp_path: Path) -> None:
    patient = {"epochs": 50, "evaluate_every_steps": 2, "learning_rate": 1e-6, "optimizer": "adamw"}

    class Worsening(ToyTask):
        """Each evaluation is worse than the one before."""

        count = 0

        def summarise(self, sums: Tensor) -> dict[str, float]:
            self.count += 1
            return {"accuracy": 1.0 / self.count + 0 * float(sums[0])}

    config = configured(tmp_path, **patient, early_stopping_patience=3)
    result = train(Worsening(plain=True, batch_size=13), config, Ranks(RankInfo()), Reporter(rank=1), lambda: False)
    assert result["endedEarly"]
    assert result["step"] == 8  # evaluated after 2, 4, 6 and 8 steps: the first was the best
    assert {a["name"]: a["step"] for a in result["artifacts"]} == {"best": 2, "final": 8}
    # What was published can be published again after a restart.
    again = train(Worsening(plain=True, batch_size=13), config, Ranks(RankInfo()), Reporter(rank=1), lambda: False)
    assert (again["step"], again["endedEarly"]) == (8, True)


def test_a_batch_is_divided_whatever_holds_its_tensors() -> None:
    values = torch.arange(7)
    parts = list(divide({"a": (values, [values * 2]), "name": "x"}, 3))
    assert [len(part["a"][0]) for part in parts] == [2, 2, 3]
    assert torch.equal(torch.cat([part["a"][1][0] for part in parts]), values * 2)
    assert parts[2]["name"] == "x"


def test_parts_that_some_rank_could_not_fill_are_refused_with_what_fits() -> None:
    config = configured(Path("/out"), batch_size=8, accumulation_steps=4)
    check_batch_size(config, 2)
    with pytest.raises(ConfigError, match=r"accumulationSteps: 8 samples on 3 processes .* in 4 parts each; write 2"):
        check_batch_size(config, 3)


@pytest.fixture
def group_of_one() -> Iterator[None]:
    """A process group in which DDP does what it does among many ranks."""
    torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.usefixtures("group_of_one")
def test_the_ranks_exchange_their_gradients_once_a_step_however_many_parts_it_has(parts: int) -> None:
    task = ToyTask(plain=True, batch_size=12)
    stream = task.build_data(Shard(rank=0, world_size=1), CPU)
    model = DistributedDataParallel(task.build_model())
    exchanged: list[int] = []
    everybody = torch.distributed.group.WORLD
    assert everybody is not None

    def count(bucket: GradBucket) -> Future[Tensor]:
        exchanged.append(bucket.index())
        return allreduce_hook(everybody, bucket)

    model.register_comm_hook(None, lambda state, bucket: count(bucket))  # noqa: ARG005 - the names are required
    backward = Backward(Parameters(accumulation_steps=parts), CPU)
    for _ in range(3):
        backward(task, model, next(stream))
    assert exchanged == [0, 0, 0]


def test_auto_keeps_the_cpu_exact() -> None:
    assert not uses_bf16("auto", CPU)
    assert uses_bf16("bf16", CPU)
    assert not uses_bf16("fp32", CPU)


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    compile_model(model, "auto", CPU)
    compile_model(model, "off", CPU)
    assert model._compiled_call_impl is None
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"needs a C\+\+ compiler"):
        compile_model(model, "on", CPU)


def test_compile_on_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    model = nn.Linear(2, 2)
    compile_model(model, "on", CPU)
    assert model._compiled_call_impl is not None
    assert list(model.state_dict()) == ["weight", "bias"]


def test_an_orthogonalised_matrix_has_singular_values_of_about_one() -> None:
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(1))
    for shaped in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalised(shaped))
        assert values.min() > 0.4
        assert values.max() < 1.3


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 5))
    optimizer = build_optimizer(model, Parameters(optimizer="muon"))
    assert isinstance(optimizer, Muon)
    shapes = [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]
    assert [group["orthogonal"] for group in optimizer.param_groups] == [True, False, False]
    assert shapes == [[(8, 8)], [(5, 8), (5, 8)], [(8,), (8,), (8,), (5,)]]


def test_the_rate_of_a_run_cut_short_falls_to_zero_at_its_end(tmp_path: Path) -> None:
    task = ToyTask(plain=True, batch_size=13)
    training = Training(task, configured(tmp_path, max_steps=16), Ranks(RankInfo()))
    assert training.schedule.learning_rate(16) == 0.0
    assert training.schedule.warmup_steps == 2


@pytest.mark.parametrize(
    ("asked", "evaluations", "lines"),
    [
        ({}, [8, 16, 24], [10, 20, 24]),
        ({"evaluate_every_epochs": 2}, [16, 24], [10, 20, 24]),
        ({"evaluate_every_steps": 9}, [9, 18, 24], [10, 20, 24]),
        ({"log_every_steps": 7}, [8, 16, 24], [7, 14, 21, 24]),
    ],
)
def test_evaluations_and_lines_come_when_they_are_asked_for(
    tmp_path: Path, asked: dict[str, int], evaluations: list[int], lines: list[int]
) -> None:
    said = io.StringIO()
    reporter = Reporter(rank=0, environment={}, stdout=said)
    task = ToyTask(plain=True, batch_size=13)
    train(task, configured(tmp_path, **asked), Ranks(RankInfo()), reporter, lambda: False)
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    assert [e["step"] for e in events if e["event"] == "evaluation"] == evaluations
    assert [e["step"] for e in events if e["event"] == "progress"] == lines
