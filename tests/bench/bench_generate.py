"""Tokens a second of text generation, beside transformers: `make bench-generate`.

The model is GPT-2's architecture with 4 layers, width 256, 4 heads and 4,096 tokens (`size: nano` of causal-lm), with
random weights: speed does not depend on them. All peers compute the same greedy tokens from the same files on one
thread, in turns; the first tokens are compared. Rates are given for wall time and for CPU time (`…_cpu`), which hold
on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.models.decoder_huggingface import huggingface_config, read_directory, to_huggingface
from modelyard_workloads.serve.generation.engine import Engine, EngineLimits
from modelyard_workloads.serve.generation.sequences import Sampling, Sequence
from servers import language
from transformers import GenerationConfig, GPT2LMHeadModel

Prompts = list[list[int]]
Answers = list[list[int]]
Ask = tuple[Prompts, int]
Generate = Callable[[Prompts, int], Answers]


def write_model(directory: Path, vocabulary: int, context: int) -> None:
    """The model in Hugging Face's layout."""
    torch.manual_seed(1)
    config = DecoderConfig.gpt2(vocabulary=vocabulary, context=context, layers=4, width=256, heads=4)
    weights = to_huggingface(config, Decoder(config).state_dict())
    safetensors.torch.save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(huggingface_config(config, end_token=0)))


class Ours:
    """The engine, without a network."""

    def __init__(self, directory: Path) -> None:
        config, weights = read_directory(directory)
        model = Decoder(config)
        model.load_state_dict(weights)
        limits = EngineLimits(
            max_length=config.context,
            max_sequences=16,
            max_step_tokens=256,
            cache_bytes=512 << 20,
            prefix_caching=False,  # the rounds ask the same again
        )
        self.engine = Engine(model, language.codec(), limits, torch.device("cpu"))

    def generate(self, prompts: Prompts, count: int) -> Answers:
        """All at once."""
        sampling = Sampling(max_tokens=count, temperature=0)
        pieces = self.engine.run([Sequence(key, prompt, sampling) for key, prompt in enumerate(prompts)])
        return [[piece.token or 0 for piece in pieces[key]] for key in range(len(prompts))]


class Transformers:
    """The three ways in which transformers generates."""

    def __init__(self, directory: Path) -> None:
        self._model: Any = GPT2LMHeadModel.from_pretrained(directory, attn_implementation="sdpa")
        self._paged: Any = GPT2LMHeadModel.from_pretrained(directory, attn_implementation="sdpa")
        self._model.train(False)
        self._paged.train(False)
        self._model.generation_config.pad_token_id = 0

    @torch.inference_mode()
    def one_by_one(self, prompts: Prompts, count: int) -> Answers:
        """`generate`, a call for each prompt: what a plain server does."""
        return [self._generate([prompt], count)[0] for prompt in prompts]

    @torch.inference_mode()
    def one_batch(self, prompts: Prompts, count: int) -> Answers:
        """`generate` with all prompts padded to one length: only where all are known beforehand."""
        return self._generate(prompts, count)

    def continuous(self, prompts: Prompts, count: int) -> Answers:
        """`generate_batch`, its continuous batching."""
        config = GenerationConfig.from_dict(
            {"max_new_tokens": count, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        )
        # The manager stays: its start-up is no part of a server's answer.
        found = self._paged.generate_batch(
            inputs=prompts, generation_config=config, progress_bar=False, persistent_manager=True
        )
        by_prompt = {tuple(output.prompt_ids): list(output.generated_tokens) for output in found.values()}
        return [by_prompt[tuple(prompt)] for prompt in prompts]

    def _generate(self, prompts: Prompts, count: int) -> Answers:
        longest = max(map(len, prompts))
        rows = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        output = self._model.generate(
            rows, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
        answers: Answers = output[:, longest:].tolist()
        return answers


def measured(generate: Generate, ask: Ask) -> tuple[float, float, Answers]:
    """Tokens a second of wall time, of CPU time, and the answers."""
    wall, cpu = time.perf_counter(), time.process_time()
    answers = generate(*ask)
    tokens = sum(map(len, answers))
    return tokens / (time.perf_counter() - wall), tokens / (time.process_time() - cpu), answers


def compare(name: str, ask: Ask, ours: Ours, peers: Mapping[str, Generate], rounds: int) -> None:
    """Ours and each peer in turns; a line for each peer."""
    contenders = {"ours": ours.generate, **peers}
    for generate in contenders.values():  # warm
        generate(*ask)
    walls: dict[str, list[float]] = {contender: [] for contender in contenders}
    cpus: dict[str, list[float]] = {contender: [] for contender in contenders}
    agree: dict[str, float] = {}
    for _ in range(rounds):
        expected: Answers = []
        for contender, generate in contenders.items():
            wall, cpu, answers = measured(generate, ask)
            expected = expected or answers
            walls[contender].append(wall)
            cpus[contender].append(cpu)
            same = sum(a[:8] == b[:8] for a, b in zip(answers, expected, strict=True))
            agree[contender] = same / len(expected)
    for peer in peers:
        mine, theirs = statistics.median(walls["ours"]), statistics.median(walls[peer])
        mine_cpu, theirs_cpu = statistics.median(cpus["ours"]), statistics.median(cpus[peer])
        line = {
            "bench": f"generate, {name}",
            "unit": "tokens/s",
            "ours": round(mine, 1),
            "peer": f"transformers {peer}",
            "theirs": round(theirs, 1),
            "ratio": round(mine / theirs, 2),
            "ours_cpu": round(mine_cpu, 1),
            "theirs_cpu": round(theirs_cpu, 1),
            "ratio_cpu": round(mine_cpu / theirs_cpu, 2),
            "same_answers": agree[peer],
            "rounds": rounds,
        }
        print(json.dumps(line), flush=True)


def first_tokens(ours: Ours, prompts: Prompts, streams: int, tokens: int) -> None:
    """Until the first token and between tokens, with so many streams at any time: who ends makes room for the next.
    Beside it, the first token of a prompt that is alone.
    """
    alone = []
    for prompt in prompts[:8]:
        began = time.perf_counter()
        ours.generate([prompt], 1)
        alone.append(time.perf_counter() - began)
    sampling = Sampling(max_tokens=tokens, temperature=0)
    waiting = [Sequence(key, prompt, sampling) for key, prompt in enumerate(prompts)]
    told: dict[int, float] = {}
    firsts: list[float] = []
    between: list[float] = []
    seen: set[int] = set()
    engine, running = ours.engine, 0
    while waiting or running:
        while waiting and running < streams:
            sequence = waiting.pop()
            told[sequence.key] = time.perf_counter()
            engine.add(sequence)
            running += 1
        for piece in engine.step():
            now = time.perf_counter()
            (between if piece.key in seen else firsts).append(now - told[piece.key])
            told[piece.key] = now
            seen.add(piece.key)
            running -= piece.finish is not None
    p99 = statistics.quantiles(firsts, n=100)[98]
    line = {
        "bench": f"time to first token, p99, {streams} streams",
        "unit": "ms",
        "ours": round(p99 * 1e3, 1),
        "peer": "a prompt that is alone",
        "theirs": round(statistics.median(alone) * 1e3, 1),
        "ratio": round(statistics.median(alone) / p99, 2),
        "p50": round(statistics.median(firsts) * 1e3, 1),
        "between_p50": round(statistics.median(between) * 1e3, 1),
        "between_p99": round(statistics.quantiles(between, n=100)[98] * 1e3, 1),
    }
    print(json.dumps(line), flush=True)


def main() -> int:
    """All figures."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=4096)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    chance = random.Random(3)

    def prompts(count: int) -> Prompts:
        return [[chance.randrange(1, options.vocabulary) for _ in range(chance.randint(16, 96))] for _ in range(count)]

    with tempfile.TemporaryDirectory() as scratch:
        write_model(Path(scratch), options.vocabulary, 512)
        ours, theirs = Ours(Path(scratch)), Transformers(Path(scratch))
        alone = {"generate": theirs.one_by_one, "continuous batching": theirs.continuous}
        compare("1 stream", (prompts(1), options.tokens), ours, alone, options.rounds)
        together = {
            "generate, one by one": theirs.one_by_one,
            "generate, one padded batch": theirs.one_batch,
            "continuous batching": theirs.continuous,
        }
        compare("16 streams", (prompts(16), options.tokens), ours, together, options.rounds)
        first_tokens(ours, prompts(96), 16, options.tokens // 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
