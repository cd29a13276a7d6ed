"""Wide & Deep: samples a second of our trainer beside plain PyTorch loops: `make bench-recommendation`.

The peers are the loop of a good tutorial: one nn.EmbeddingBag for each column (and one of width 1 for the wide part),
the same layers, batches taken by index from tensors in memory (no DataLoader, which would make it slower). One has
torch.optim.Adam over everything, the other sparse gradients, SparseAdam for the tables and Adam for the rest. Data,
model size, batch and threads are the same, and all take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from modelyard_workloads import config as configuration
from modelyard_workloads.data.interactions import load_interactions
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.tasks import build_task
from torch import Tensor, nn

COLUMNS, DIMENSION, HIDDEN = 26, 16, [128, 64]
OURS = "modelyard"
PEERS = {"nn.EmbeddingBag, Adam": False, "nn.EmbeddingBag(sparse=True), SparseAdam and Adam": True}


class TutorialWideDeep(nn.Module):
    """Wide & Deep with a table for each column."""

    def __init__(self, sizes: list[int], numeric: int, *, sparse: bool) -> None:
        super().__init__()

        def tables(width: int) -> nn.ModuleList:
            return nn.ModuleList(nn.EmbeddingBag(size, width, mode="sum", sparse=sparse) for size in sizes)

        self.wide, self.deep = tables(1), tables(DIMENSION)
        layers: list[nn.Module] = []
        width = numeric + len(sizes) * DIMENSION
        for units in HIDDEN:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))
        self.numeric = nn.Linear(numeric, 1)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """ids (B, F), numbers (B, D) -> logits (B,)"""
        deep = torch.cat([table(ids[:, i : i + 1]) for i, table in enumerate(self.deep)] + [numbers], dim=1)
        wide = torch.stack([table(ids[:, i : i + 1]) for i, table in enumerate(self.wide)]).sum(dim=0)
        logits: Tensor = self.layers(deep) + wide + self.numeric(numbers)
        return logits.squeeze(1)


def write_data(directory: Path, rows: int, values: int) -> str:
    """Clicks at random: their prediction is not the point."""
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {"clicked": draw.integers(2, size=rows), "price": draw.lognormal(size=rows)}
    for index in range(COLUMNS):
        columns[f"c{index}"] = (values * draw.random(rows) ** 3).astype(np.int64)  # some values are frequent
    pyarrow.parquet.write_table(pyarrow.table(columns), directory / "clicks.parquet")
    return (directory / "clicks.parquet").as_uri()


def ours(raw: dict[str, Any], device: torch.device) -> Callable[[], Any]:
    """One step of our loop."""
    config = configuration.parse(raw)
    ranks = Ranks(RankInfo())
    ranks.device = device
    training = Training(build_task(config), config, ranks)
    model = training.prepare(ranks)
    return lambda: training.step(model, next(training.data))


def peer(raw: dict[str, Any], device: torch.device, *, sparse: bool) -> Callable[[], Any]:
    """One step of a plain loop."""
    parameters: Any = configuration.parse(raw).parameters
    data = load_interactions(raw["dataset"]["uri"], parameters)
    sizes = list(parameters.categorical.values())
    offsets = np.cumsum([0, *sizes[:-1]])
    ids = torch.from_numpy((np.asarray(data.train.rows) - offsets).astype(np.int64)).to(device)
    numbers = torch.from_numpy(np.array(data.train.numbers)).to(device)
    labels = torch.from_numpy(np.array(data.train.labels)).float().to(device)
    model = TutorialWideDeep(sizes, numbers.shape[1], sparse=sparse).to(device)
    tables = [*model.wide.parameters(), *model.deep.parameters()]
    layers = [*model.layers.parameters(), *model.numeric.parameters()]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(layers if sparse else [*layers, *tables], lr=1e-3)]
    if sparse:
        optimizers.append(torch.optim.SparseAdam(tables, lr=1e-3))
    criterion = nn.BCEWithLogitsLoss()
    order = torch.randperm(len(labels))
    position = 0

    def step() -> None:
        nonlocal position
        chosen = order[position : position + parameters.batch_size].to(device)
        position = (position + parameters.batch_size) % (len(labels) - parameters.batch_size)
        for optimizer in optimizers:
            optimizer.zero_grad()
        criterion(model(ids[chosen], numbers[chosen]), labels[chosen]).backward()
        for optimizer in optimizers:
            optimizer.step()

    return step


def speed(step: Callable[[], Any], batch: int, seconds: float, device: torch.device) -> float:
    """Samples a second."""

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    settle()
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        for _ in range(1 if device.type == "cpu" else 20):
            step()
            steps += 1
        settle()
    return steps * batch / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--buckets", type=int, default=100_000, help="of each of the 26 columns")
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["XDG_CACHE_HOME"] = directory
        raw: dict[str, Any] = {
            "task": "recommendation",
            "dataset": {"uri": write_data(Path(directory), arguments.rows, arguments.buckets)},
            "output": {"path": directory},
            "parameters": {
                "label": "clicked",
                "numeric": {"price": "log"},
                "categorical": {f"c{index}": arguments.buckets for index in range(COLUMNS)},
                "embeddingDimension": DIMENSION,
                "hiddenUnits": HIDDEN,
                "batchSize": arguments.batch,
                "epochs": 1000,
            },
        }
        began = time.perf_counter()
        load_interactions(raw["dataset"]["uri"], configuration.parse(raw).parameters)  # type: ignore[arg-type]
        encoding = arguments.rows / (time.perf_counter() - began)
        steps = {OURS: ours(raw, device)} | {name: peer(raw, device, sparse=s) for name, s in PEERS.items()}
        measured: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(arguments.rounds):
            for name, step in steps.items():
                measured[name].append(speed(step, arguments.batch, arguments.seconds, device))
    medians = {name: statistics.median(values) for name, values in measured.items()}
    for name in PEERS:
        line = {
            "bench": f"Wide & Deep, {COLUMNS} columns of {arguments.buckets} buckets, batch {arguments.batch}",
            "unit": "samples/s",
            "ours": round(medians[OURS]),
            "peer": f"torch {torch.__version__}, {name}",
            "theirs": round(medians[name]),
            "ratio": round(medians[OURS] / medians[name], 2),
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "rounds": {side: [round(value) for value in measured[side]] for side in (OURS, name)},
            "encodedRowsPerSecond": round(encoding),
        }
        sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
