"""causal-lm beside nanoGPT's recipe for a CPU: `make bench-nanogpt ROUNDS=3`.

Two lines. `to the same bits per byte`: seconds from the text, tokenizer included, to a model that predicts held-out
text at least as well as the recipe's does at its end (`reached`). `the same model`: tokens a second of one model, which
is GPT-2's (the recipe leaves out biases), batch and token stream, data included.

The recipe is that of nanoGPT's README, "I only have a macbook" (https://github.com/karpathy/nanoGPT, MIT), in words of
our own: characters, 4 layers, 4 heads, width 128, rows of 64, batches of 12, 2,000 steps of AdamW. The text is Python's
language reference, one document in ten held out. Sides take turns; each is a process of its own with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from modelyard_workloads.config import parse
from modelyard_workloads.data.corpus import python_documents
from modelyard_workloads.distributed import RankInfo, Ranks
from modelyard_workloads.loop import Training
from modelyard_workloads.tasks import build_task
from torch import Tensor, nn

STEPS, BATCH, LENGTH, WIDTH, LAYERS, HEADS = 2000, 12, 64, 128, 4, 4
SPEED_STEPS, WARM_UP = 120, 10
# What of ours gets there soonest on one core.
OURS = {
    "layers": 3,
    "width": 128,
    "heads": 4,
    "vocabularySize": 1024,
    "contextLength": 64,
    "batchSize": 12,
    "optimizer": "muon",
    "learningRate": 6e-3,
    "maxSteps": 500,
}


class Layer(nn.Module):
    """(B, T, W) -> (B, T, W): as in GPT-2, or without its biases and with GELU itself, as the recipe has it."""

    def __init__(self, gpt2: bool) -> None:
        super().__init__()
        self._gelu = nn.GELU("tanh" if gpt2 else "none")
        self.attention_norm, self.norm = nn.LayerNorm(WIDTH, bias=gpt2), nn.LayerNorm(WIDTH, bias=gpt2)
        self.project, self.merge = nn.Linear(WIDTH, 3 * WIDTH, bias=gpt2), nn.Linear(WIDTH, WIDTH, bias=gpt2)
        self.expand, self.contract = nn.Linear(WIDTH, 4 * WIDTH, bias=gpt2), nn.Linear(4 * WIDTH, WIDTH, bias=gpt2)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the feed-forward network."""
        q, k, v = (
            part.unflatten(2, (HEADS, -1)).transpose(1, 2)
            for part in self.project(self.attention_norm(x)).split(WIDTH, dim=2)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.merge(mixed)
        added: Tensor = x + self.contract(self._gelu(self.expand(self.norm(x))))
        return added


class Recipe(nn.Module):
    """The recipe's model: tokens (B, T) -> mean cross-entropy in nats."""

    def __init__(self, vocabulary: int, *, gpt2: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.layers = nn.Sequential(*(Layer(gpt2) for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=gpt2)
        self.head = nn.Linear(WIDTH, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                inward = name.endswith(("merge.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if inward else 0.02)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1]))
        return F.cross_entropy(self.head(self.norm(self.layers(x))).flatten(0, 1), targets.flatten())


class Peer:
    """The recipe's loop."""

    def __init__(self, vocabulary: int, tokens: Tensor, *, gpt2: bool = False) -> None:
        torch.manual_seed(1337)
        self.model, self._tokens = Recipe(vocabulary, gpt2=gpt2), tokens
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def step(self, number: int) -> None:
        """Linear warm-up over 100 steps, then a cosine to a tenth; gradients cut to norm 1."""
        decay = 0.5 * (1 + math.cos(math.pi * max(0, number - 100) / (STEPS - 100)))
        rate = 1e-3 * (number + 1) / 101 if number < 100 else 1e-4 + decay * 9e-4
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        starts = torch.randint(len(self._tokens) - LENGTH, (BATCH,)).tolist()
        inputs = torch.stack([self._tokens[s : s + LENGTH] for s in starts])
        targets = torch.stack([self._tokens[s + 1 : s + 1 + LENGTH] for s in starts])
        self.model(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def bits_per_byte(self, text: bytes) -> float:
        """Of held-out text, row by row; tokens are bytes."""
        data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        rows = (len(data) - 1) // LENGTH
        inputs, targets = (data[i : i + rows * LENGTH].view(rows, LENGTH) for i in (0, 1))
        losses = []
        for first in range(0, rows, 256):
            some = inputs[first : first + 256]
            losses.append(float(self.model(some, targets[first : first + 256])) * len(some))
        return sum(losses) / rows / math.log(2)


def write_text(folder: Path) -> tuple[bytes, bytes]:
    """Both parts, also as files for ours."""
    documents = [d.text for d in python_documents() if d.name.startswith("topics/")]
    parts = ("\n".join(d for i, d in enumerate(documents) if (i % 10 == 0) == held) for held in (False, True))
    texts = [part.encode() for part in parts]
    for name, text in zip(("train", "test"), texts, strict=True):
        (folder / name).mkdir()
        (folder / name / "text.txt").write_bytes(text)
    return texts[0], texts[1]


def ours(folder: Path, parameters: dict[str, Any]) -> Training:
    """A training of ours before its first step."""
    raw = {
        "task": "causal-lm",
        "parameters": parameters,
        "dataset": {"uri": (folder / "data").as_uri()},
        "output": {"path": str(folder / "output")},
    }
    config = parse(raw)
    return Training(build_task(config), config, Ranks(RankInfo()))


def race(side: str, folder: Path) -> dict[str, Any]:
    """Training as its side does it, from the text to the last step."""
    train, held_out = write_text(folder / "data")
    began = time.perf_counter()
    if side == "peer":
        peer = Peer(256, torch.frombuffer(bytearray(train), dtype=torch.uint8).long())
        for number in range(STEPS):
            peer.step(number)
        return {"seconds": time.perf_counter() - began, "bitsPerByte": peer.bits_per_byte(held_out)}
    ranks = Ranks(RankInfo())
    training = ours(folder, OURS)
    model = training.prepare(ranks)
    while not training.ended:
        training.step(model, next(training.data))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "bitsPerByte": training.evaluate(ranks)["bitsPerByte"]}


def speed(side: str, folder: Path, precision: str) -> dict[str, Any]:
    """Steps of one model on one stream of tokens; the recipe computes in float32 on a CPU."""
    write_text(folder / "data")
    shape = {"layers": LAYERS, "width": WIDTH, "heads": HEADS, "vocabularySize": 512, "contextLength": LENGTH}
    training = ours(folder, {**shape, "batchSize": BATCH, "optimizer": "adamw", "precision": precision})
    model = training.prepare(Ranks(RankInfo()))
    tokens = torch.cat([next(training.data).inputs.flatten() for _ in range(50)])
    peer = Peer(512, tokens, gpt2=True)
    mine, theirs = (sum(p.numel() for p in side.parameters()) for side in (model, peer.model))
    assert mine == theirs, f"{mine} parameters beside {theirs}: not the same model"
    for number in range(WARM_UP + SPEED_STEPS):
        if number == WARM_UP:
            began = time.perf_counter(), time.process_time()
        if side == "peer":
            peer.step(number)
        else:
            training.step(model, next(training.data))
    count = SPEED_STEPS * BATCH * LENGTH
    return {"rate": count / (time.perf_counter() - began[0]), "cpuRate": count / (time.process_time() - began[1])}


def measured(what: str, side: str) -> dict[str, Any]:
    """One side once, in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--side", side, "--what", what]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=1800, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(what: str, rounds: int) -> dict[str, Any]:
    """The line of one comparison."""
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        for side, results in runs.items():
            results.append(measured(what, side))
    key = "seconds" if what == "race" else "rate"
    mine, theirs = (statistics.median(run[key] for run in runs[side]) for side in ("ours", "peer"))
    line = {"ours": round(mine, 1), "peer": f"nanoGPT's recipe, torch {torch.__version__}", "theirs": round(theirs, 1)}
    if what != "race":
        name = {"bench": f"causal-lm, the same model, {what} beside fp32", "unit": "tokens/s"}
        by_cpu = [statistics.median(run["cpuRate"] for run in runs[side]) for side in ("ours", "peer")]
        return {**name, **line, "ratio": round(mine / theirs, 2), "ratioByCpu": round(by_cpu[0] / by_cpu[1], 2)}
    bits = [statistics.median(run["bitsPerByte"] for run in runs[side]) for side in ("ours", "peer")]
    told = {"bitsPerByte": round(bits[0], 3), "theirBitsPerByte": round(bits[1], 3), "reached": bits[0] <= bits[1]}
    return {
        "bench": "causal-lm to the same bits per byte",
        "unit": "s",
        **line,
        "ratio": round(theirs / mine, 2),
    } | told


def main() -> None:
    """Both lines, or one side of one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=("race", "fp32", "bf16"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "data").mkdir()
            where = Path(folder)
            if arguments.what == "race":
                result = race(arguments.side, where)
            else:
                result = speed(arguments.side, where, precision=arguments.what)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    for what in ("fp32", "bf16", "race"):
        sys.stdout.write(json.dumps(compare(what, arguments.rounds)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
