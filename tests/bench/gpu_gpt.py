"""GPT-2 124M, rows of 1,024 tokens, a batch of 32 rows, bf16: our trainer, or a plain loop around transformers' model.

Operations are counted as nanoGPT does: 6 for each weight (without those of the positions) and token, and 12 for each
layer, number of the stream's width and place of the row; `mfuCausal` counts half of the latter, which is what causal
attention needs.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import gpu_text
from bench.gpu_side import Side, compiling, device, eager_peer, main, matmul_peak, ours, settle
from modelyard_workloads.config import parse
from modelyard_workloads.data.order import Shard
from modelyard_workloads.data.tokens import TokenRows
from modelyard_workloads.models.decoder_huggingface import huggingface_config
from modelyard_workloads.models.next_token import NextTokenLoss
from modelyard_workloads.tasks import build_task
from torch import nn

RATE = 6e-4


def configuration(folder: Path, tiny: bool) -> dict[str, Any]:
    """Of our trainer."""
    shape = {"size": "nano", "contextLength": 64, "batchSize": 2} if tiny else {"size": "small", "batchSize": 32}
    parameters = {
        "contextLength": 1024,
        "tokenizer": gpu_text.byte_pairs(folder / "tokenizer", 1_000 if tiny else 50_000),
        "learningRate": RATE,
        "schedule": "constant",
        "warmupEpochs": 0,
        "epochs": 1000,
        **shape,
    }
    return {
        "task": "causal-lm",
        "parameters": parameters,
        "dataset": {"uri": gpu_text.ideographs(folder / "text" / "text.txt", 400_000 if tiny else 1_000_000)},
        "output": {"path": str(folder / "output")},
    }


def our_side(folder: Path, tiny: bool) -> Side:
    """Our loop."""
    peak = matmul_peak()
    raw = configuration(folder, tiny)
    parameters = raw["parameters"]
    tokens = parameters["batchSize"] * parameters["contextLength"]
    side = ours(raw, "tokens/s", tokens)
    assert side.training is not None
    assert isinstance(side.training.model, NextTokenLoss)
    decoder = side.training.model.decoder
    weights = sum(p.numel() for name, p in decoder.named_parameters() if "position_embedding" not in name)
    places = decoder.config.layers * decoder.config.width * parameters["contextLength"]
    flops = {"flopsPerToken": 6 * weights + 12 * places, "causalFlopsPerToken": 6 * weights + 6 * places}
    side.about = {"matmulPeak": peak, **flops}
    return side


def peer(folder: Path, tiny: bool) -> Side:
    """GPT2LMHeadModel, compiled, in autocast, with fused AdamW; its batches wait on the GPU."""
    transformers: Any = import_module("transformers")
    config = parse(configuration(folder, tiny))
    parameters: Any = config.parameters
    task: Any = build_task(config)
    task.build_data(Shard(rank=0, world_size=1), torch.device("cpu"))
    shape = huggingface_config(task.build_model().decoder.config, end_token=0)
    torch.set_float32_matmul_precision("high")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).to(device())
    compiled: Any = torch.compile(model, disable=eager_peer())
    length, batch = parameters.context_length, parameters.batch_size
    (prepared,) = (folder / "output" / "prepared").glob("*[!k]")
    rows = TokenRows(prepared, "train", length=length, end=0, apart=False)
    tokens = torch.from_numpy(rows.read(np.arange(len(rows)))[0][:, :length].astype(np.int64)).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    number, per_epoch = 0, len(tokens) // batch
    order = torch.randperm(len(tokens), device=device())

    def step() -> None:
        nonlocal number
        place = batch * (number % per_epoch)
        chosen, number = order[place : place + batch], number + 1
        with torch.autocast(device().type, torch.bfloat16):
            loss = compiled(input_ids=tokens[chosen], labels=tokens[chosen]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    settle()
    name = f"transformers {transformers.__version__} GPT2LMHeadModel, autocast bf16, {compiling()}, fused AdamW"
    return Side(step, "tokens/s", batch * length, {"peer": name})


if __name__ == "__main__":
    main({"ours": our_side, "peer": peer})
