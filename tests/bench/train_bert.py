"""Pretraining BERT: our loop, or Hugging Face's Trainer with BertForPreTraining and its collator for masking.

`train_bert.py ours|peer SIZE BATCH`: the same windows of Python's documentation, the same vocabulary (15,744 tokens, as
the text has no more), dropout 0.1, AdamW at the same rate. Counted are tokens a second that are no padding, after a few
steps to warm up; the loss is the mean over the last steps (masked tokens plus pairs).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from modelyard_workloads.config import parse
from modelyard_workloads.data.wordpiece import SPECIAL
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.models.bert import SIZES
from modelyard_workloads.tasks.bert_pretraining import BertPretrainingTask

WARM_UP, STEPS, LENGTH, RATE, VOCABULARY = 4, 24, 128, 5e-4, 30_528


def task_of(size: str, batch: int, output: Path) -> tuple[BertPretrainingTask, Any]:
    """Our task, and its configuration."""
    parameters = {
        "architecture": size,
        "batchSize": batch,
        "sequenceLength": LENGTH,
        "vocabularySize": VOCABULARY,
        "learningRate": RATE,
        "schedule": "constant",
        "warmupEpochs": 0,
        "maxSteps": WARM_UP + STEPS,
    }
    config = parse(
        {
            "task": "bert-pretraining",
            "parameters": parameters,
            "dataset": {"uri": "example://python-docs"},
            "output": {"path": str(output)},
        }
    )
    return BertPretrainingTask(config), config


def ours(size: str, batch: int, output: Path) -> dict[str, Any]:
    """The loop's own steps."""
    task, config = task_of(size, batch, output)
    ranks = Ranks(RankInfo())
    training = Training(task, config, ranks)
    model = training.prepare(ranks)
    tokens, losses, began = 0, [], now()
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            tokens, began = 0, now()
        rows = next(training.data)
        losses.append(float(training.step(model, rows)))
        tokens += len(rows.rows.tokens)
    return {**rates(tokens, began, now()), "loss": sum(losses[-8:]) / 8}


def now() -> tuple[float, float]:
    """Seconds of the clock on the wall and of the processor."""
    return time.perf_counter(), time.process_time()


def rates(tokens: float, began: tuple[float, float], ended: tuple[float, float]) -> dict[str, Any]:
    """Tokens a second by both."""
    wall, cpu = (after - before for before, after in zip(began, ended, strict=True))
    return {"unit": "tokens/s", "rate": tokens / wall, "cpuRate": tokens / cpu}


def peer(size: str, batch: int, output: Path) -> dict[str, Any]:
    """Hugging Face's Trainer; the rows are made by our data module beforehand, masks by their collator."""
    transformers: Any = import_module("transformers")
    task, config = task_of(size, batch, output)
    ranks = Ranks(RankInfo())
    training = Training(task, config, ranks)
    data, vocabulary = training.data, training.model.get_parameter("encoder.tokens.weight").shape[0]
    rows = []
    for _ in range(WARM_UP + STEPS):
        made = next(data)
        ids = made.rows.tokens.clone()
        ids[made.masked] = made.targets
        parts = (torch.split(values, list(made.rows.lengths)) for values in (ids, made.rows.types))
        for tokens, types, stranger in zip(*parts, made.strangers.tolist(), strict=True):
            rows.append({"input_ids": tokens, "token_type_ids": types, "next_sentence_label": stranger})
    (tokenizer_file,) = output.glob("cache/*/tokenizer.json")
    named = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    names = {f"{role}_token": token for role, token in named.items()}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), **names)
    layers, width, heads = SIZES[size]
    torch.manual_seed(0)
    model = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=vocabulary,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=LENGTH,
            attention_probs_dropout_prob=0.0,  # as ours
        )
    )
    clock = _clock(transformers)
    arguments = transformers.TrainingArguments(
        output_dir=str(output / "peer"),
        per_device_train_batch_size=batch,
        max_steps=WARM_UP + STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[clock]
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = sum(len(row["input_ids"]) for row in rows) * STEPS / (WARM_UP + STEPS)
    name = f"transformers {transformers.__version__} Trainer"
    return {**rates(tokens, clock.began, clock.ended), "loss": sum(map(float, losses[-8:])) / 8, "peer": name}


def _clock(transformers: Any) -> Any:
    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        """When the warm-up ended, when the last step did."""

        began = ended = (0.0, 0.0)

        def on_step_end(self, _arguments: Any, state: Any, _control: Any, **_: Any) -> None:
            self.ended = now()
            if state.global_step == WARM_UP:
                self.began = self.ended

    return Clock()


if __name__ == "__main__":
    side = {"ours": ours, "peer": peer}[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        result = side(sys.argv[2], int(sys.argv[3]), Path(folder))
    sys.stdout.write("\n" + json.dumps(result) + "\n")
