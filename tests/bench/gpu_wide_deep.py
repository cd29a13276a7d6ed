"""Wide & Deep, 26 columns of 100,000 buckets and 13 numbers (as Criteo's data has), batch 65,536: our trainer, or a
plain loop with one nn.EmbeddingBag a column and fused Adam over everything, in autocast too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from bench.gpu_side import Side, device, main, ours
from modelyard_workloads.config import parse
from modelyard_workloads.data.interactions import load_interactions
from torch import Tensor, nn

COLUMNS, NUMBERS, DIMENSION, HIDDEN = 26, 13, 16, [1024, 512, 256]


class PlainWideDeep(nn.Module):
    """A table for each column, and one of width 1 for the wide part."""

    def __init__(self, buckets: int) -> None:
        super().__init__()
        self.wide = nn.ModuleList(nn.EmbeddingBag(buckets, 1, mode="sum") for _ in range(COLUMNS))
        self.deep = nn.ModuleList(nn.EmbeddingBag(buckets, DIMENSION, mode="sum") for _ in range(COLUMNS))
        layers: list[nn.Module] = []
        width = NUMBERS + COLUMNS * DIMENSION
        for units in HIDDEN:
            layers += [nn.Linear(width, units), nn.ReLU()]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))
        self.numeric = nn.Linear(NUMBERS, 1)

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """ids (B, F), numbers (B, D) -> logits (B,)"""
        columns = [ids[:, index : index + 1] for index in range(COLUMNS)]
        deep = [table(column) for table, column in zip(self.deep, columns, strict=True)]
        wide = torch.stack([table(column) for table, column in zip(self.wide, columns, strict=True)]).sum(dim=0)
        logits: Tensor = self.layers(torch.cat([numbers, *deep], dim=1)) + wide + self.numeric(numbers)
        return logits.squeeze(1)


def configuration(folder: Path, tiny: bool) -> dict[str, Any]:
    """Of our trainer. Values are at random: their prediction is not the point."""
    rows, buckets, batch = (2_000, 100, 256) if tiny else (300_000, 100_000, 65_536)
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {"clicked": draw.integers(2, size=rows)}
    columns |= {f"n{index}": draw.lognormal(size=rows) for index in range(NUMBERS)}
    for index in range(COLUMNS):  # some values are frequent
        columns[f"c{index}"] = (buckets * draw.random(rows) ** 3).astype(np.int64)
    path = folder / "data" / "clicks.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    parameters = {
        "label": "clicked",
        "numeric": {f"n{index}": "log" for index in range(NUMBERS)},
        "categorical": {f"c{index}": buckets for index in range(COLUMNS)},
        "embeddingDimension": DIMENSION,
        "hiddenUnits": HIDDEN,
        "batchSize": batch,
        "schedule": "constant",
        "warmupEpochs": 0,
        "epochs": 10_000,
    }
    return {
        "task": "recommendation",
        "parameters": parameters,
        "dataset": {"uri": path.resolve().as_uri()},
        "output": {"path": str(folder / "output")},
    }


def our_side(folder: Path, tiny: bool) -> Side:
    """Our loop, from the encoded columns to the optimizers."""
    raw = configuration(folder, tiny)
    return ours(raw, "samples/s", raw["parameters"]["batchSize"])


def peer(folder: Path, tiny: bool) -> Side:
    """The plain loop; its columns are on the GPU too."""
    raw = configuration(folder, tiny)
    parameters: Any = parse(raw).parameters
    data = load_interactions(raw["dataset"]["uri"], parameters).train
    buckets, batch = parameters.categorical["c0"], parameters.batch_size
    ids = torch.from_numpy((np.asarray(data.rows) - np.arange(COLUMNS) * buckets).astype(np.int64)).to(device())
    numbers = torch.nan_to_num(torch.from_numpy(np.array(data.numbers))).to(device())
    labels = torch.from_numpy(np.array(data.labels)).float().to(device())
    torch.set_float32_matmul_precision("high")
    model = PlainWideDeep(buckets).to(device())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    criterion = nn.BCEWithLogitsLoss()

    def step() -> None:
        chosen = torch.randint(len(labels), (batch,), device=device())
        with torch.autocast(device().type, torch.bfloat16):
            logits = model(ids[chosen], numbers[chosen])
        criterion(logits.float(), labels[chosen]).backward()
        optimizer.step()
        optimizer.zero_grad()

    name = f"torch {torch.__version__}, nn.EmbeddingBag for each column, fused Adam, autocast bf16"
    return Side(step, "samples/s", batch, {"peer": name})


if __name__ == "__main__":
    main({"ours": our_side, "peer": peer})
