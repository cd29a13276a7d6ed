"""One side of the GPT comparison: `train_gpt.py ours|peer fp32|bf16`; see bench_train.py.

A GPT-2 (4 layers, width 256, 4,096 tokens) on the same rows of `example://python-docs`, AdamW at the same rate: ours as
the loop runs it, and transformers' Trainer as its documentation says, which on a CPU computes in float32. The rate is
that of the fastest step: other work on the machine only adds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modelyard_workloads.config import parse
from modelyard_workloads.data.tokens import TokenRows
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.models.decoder_huggingface import huggingface_config
from modelyard_workloads.models.next_token import NextTokenLoss
from modelyard_workloads.tasks import build_task

STEPS, ROWS, LENGTH, RATE = 6, 8, 256, 1e-3
Seconds = tuple[float, float]  # of the clock, of the processor


def now() -> Seconds:
    """Both clocks."""
    return time.perf_counter(), time.process_time()


def training(output: Path, precision: str) -> Training:
    """A training of ours before its first step."""
    parameters = {"batchSize": ROWS, "contextLength": LENGTH, "precision": precision, "learningRate": RATE}
    constant = {"schedule": "constant", "warmupEpochs": 0}
    raw = {
        "task": "causal-lm",
        "parameters": parameters | constant,
        "dataset": {"uri": "example://python-docs"},
        "output": {"path": str(output)},
    }
    config = parse(raw)
    return Training(build_task(config), config, Ranks(RankInfo()))


def ours(output: Path, precision: str) -> dict[str, Any]:
    """Steps as the loop does them, data included."""
    run = training(output, precision)
    model = run.prepare(Ranks(RankInfo()))
    steps, loss = [], torch.zeros(())
    for _ in range(STEPS):
        began = now()
        loss = run.step(model, next(run.data))
        steps.append((began, now()))
    return figures(steps, float(loss))


def peer(output: Path) -> dict[str, Any]:
    """The same by transformers' Trainer on a model of the same shape."""
    transformers: Any = import_module("transformers")
    run = training(output, "fp32")
    assert isinstance(run.model, NextTokenLoss)
    config = huggingface_config(run.model.decoder.config, end_token=0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))
    (prepared,) = (output / "prepared").iterdir()
    rows = TokenRows(prepared, "train", length=LENGTH, end=0, apart=False)
    tokens, _ = rows.read(np.arange(ROWS * STEPS))
    data = [{"input_ids": row, "labels": row} for row in torch.from_numpy(tokens[:, :LENGTH].astype(np.int64))]
    steps: list[tuple[Seconds, Seconds]] = []

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """Notes when steps begin and end."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = now()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append((self.began, now()))

    arguments = transformers.TrainingArguments(
        output_dir=str(output / "theirs"),
        per_device_train_batch_size=ROWS,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.1,
        adam_beta2=0.95,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Clock()])
    trainer.train()
    loss = next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry)
    return figures(steps, float(loss)) | {"peer": f"transformers {transformers.__version__} Trainer, fp32"}


def figures(steps: list[tuple[Seconds, Seconds]], loss: float) -> dict[str, Any]:
    """What bench_train.py reads."""
    wall, processor = (min(ended[clock] - began[clock] for began, ended in steps) for clock in (0, 1))
    tokens = ROWS * LENGTH
    return {"unit": "tokens/s", "rate": tokens / wall, "cpuRate": tokens / processor, "loss": loss}


def main() -> None:
    """Print one JSON object."""
    side, precision = sys.argv[1:]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as folder:
        result = ours(Path(folder), precision) if side == "ours" else peer(Path(folder))
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
