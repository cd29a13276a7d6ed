"""BERT-large, pretraining on texts of 16 to 512 tokens, bf16: our trainer without padding, or a plain loop around
transformers' model, padded to 512. Both guess 15 % of the tokens and the next sentence.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from bench import gpu_text
from bench.gpu_side import Side, compiling, device, eager_peer, main, ours
from modelyard_workloads.config import parse
from modelyard_workloads.data.order import Shard
from modelyard_workloads.models.bert import SIZES
from modelyard_workloads.tasks import build_task
from torch import Tensor, nn

RATE = 1e-4


def configuration(folder: Path, tiny: bool) -> dict[str, Any]:
    """Of our trainer."""
    size, length, batch = ("tiny", 64, 4) if tiny else ("large", 512, 32)
    parameters = {
        "architecture": size,
        "sequenceLength": length,
        "batchSize": batch,
        "tokenizer": gpu_text.words(folder / "vocabulary" / "vocab.txt"),
        "learningRate": RATE,
        "schedule": "constant",
        "warmupEpochs": 0,
        "epochs": 1000,
    }
    uri = gpu_text.documents(folder / "documents" / "train.jsonl", 64 if tiny else 4_000, length - 3)
    return {
        "task": "bert-pretraining",
        "parameters": parameters,
        "dataset": {"uri": uri},
        "output": {"path": str(folder / "output")},
    }


def our_side(folder: Path, tiny: bool) -> Side:
    """Our loop."""
    raw = configuration(folder, tiny)
    side = ours(raw, "sequences/s", raw["parameters"]["batchSize"])
    side.warm_up = 16  # until most sizes of a batch have been met once
    return side


def peer(folder: Path, tiny: bool) -> Side:
    """BertForPreTraining, compiled, in autocast, with fused AdamW; its batches, made by our data module, wait on the
    GPU.
    """
    transformers: Any = import_module("transformers")
    config = parse(configuration(folder, tiny))
    parameters: Any = config.parameters
    task: Any = build_task(config)
    data = task.build_data(Shard(rank=0, world_size=1), torch.device("cpu"))
    batches = [_padded(next(data), parameters.sequence_length) for _ in range(8)]
    lengths = sum(float(batch["attention_mask"].sum()) for batch in batches) / 8 / parameters.batch_size
    layers, width, heads = SIZES[parameters.architecture]
    torch.set_float32_matmul_precision("high")
    shape = transformers.BertConfig(
        vocab_size=task.build_model().encoder.tokens.weight.shape[0],
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=parameters.sequence_length,
        attention_probs_dropout_prob=0.0,  # as ours
    )
    model = transformers.BertForPreTraining(shape).to(device())
    compiled: Any = torch.compile(model, disable=eager_peer())
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, fused=True)
    number = 0

    def step() -> None:
        nonlocal number
        batch, number = batches[number % len(batches)], number + 1
        with torch.autocast(device().type, torch.bfloat16):
            loss = compiled(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    name = f"transformers {transformers.__version__} BertForPreTraining, autocast bf16, {compiling()}, fused AdamW"
    about = {"peer": name, "meanTokens": round(lengths, 1), "batch": parameters.batch_size}
    return Side(step, "sequences/s", parameters.batch_size, about)


def _padded(made: Any, length: int) -> dict[str, Tensor]:
    rows, count = made.rows, len(made.rows.lengths)
    labels = torch.full_like(rows.tokens, -100)
    labels[made.masked] = made.targets
    padded = {
        name: torch.full((count, length), blank)
        for name, blank in (("input_ids", 0), ("token_type_ids", 0), ("attention_mask", 0), ("labels", -100))
    }
    parts = (torch.split(values, list(rows.lengths)) for values in (rows.tokens, rows.types, labels))
    for index, (tokens, types, wanted) in enumerate(zip(*parts, strict=True)):
        for name, values in (("input_ids", tokens), ("token_type_ids", types), ("labels", wanted)):
            padded[name][index, : len(values)] = values
        padded["attention_mask"][index, : len(tokens)] = 1
    padded["next_sentence_label"] = made.strangers
    return {name: values.to(device()) for name, values in padded.items()}


if __name__ == "__main__":
    main({"ours": our_side, "peer": peer})
