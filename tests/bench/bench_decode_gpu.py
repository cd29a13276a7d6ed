"""Decoding on a GPU beside transformers' generate, and beside the card's memory: `make bench-decode-gpu`.

Random bfloat16 weights of Llama 3.2 1B's and Llama 3.1 8B's shapes, made on the card; all sequences decode at once
behind prompts of 512 tokens. `roofline` is the share of the measured bandwidth of a device copy at which weights and
keys and values of a step would have to be read to be as fast: whole steps of the engine, its host's work included.
Before, greedy tokens in float32 are compared with a plain loop. Needs a GPU and Triton.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from modelyard_workloads.models.decoder import Decoder, RotaryPositions
from modelyard_workloads.models.decoder_huggingface import decoder_config, from_huggingface
from modelyard_workloads.serve.generation.cache import bytes_per_token
from modelyard_workloads.serve.generation.engine import Engine, EngineLimits
from modelyard_workloads.serve.generation.sequences import Sampling, Sequence
from modelyard_workloads.serve.generation.text import TextCodec
from tokenizers import Tokenizer, decoders, models
from transformers import LlamaConfig, LlamaForCausalLM

PROMPT = 512
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
             "intermediate_size": 512, "vocab_size": 1000},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
           "intermediate_size": 14336, "vocab_size": 128256},
}  # fmt: skip


def made(shape: str, dtype: torch.dtype) -> tuple[Any, Decoder]:
    """Their model and ours with the same weights."""
    torch.manual_seed(1)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        theirs: Any = LlamaForCausalLM(LlamaConfig(max_position_embeddings=2048, **SHAPES[shape]))
    theirs.train(False)
    torch.set_default_dtype(torch.float32)
    config = decoder_config(theirs.config.to_dict())
    weights = from_huggingface(config, theirs.state_dict(), dtype=dtype)
    with torch.device("meta"):
        ours = Decoder(config)
    ours.load_state_dict(weights, assign=True)
    if config.tied_head:
        ours.head.weight = ours.embedding.weight
    ours.rotary = RotaryPositions(config)
    return theirs, ours


def engine_of(decoder: Decoder, most: int) -> Engine:
    """For so many sequences."""
    words = Tokenizer(models.WordLevel({f"<{token}>": token for token in range(decoder.config.vocabulary)}, "<0>"))
    words.decoder = decoders.Fuse()
    limits = EngineLimits(
        max_length=1024, max_sequences=most, max_step_tokens=8192, cache_bytes=30 << 30, prefix_caching=False
    )
    return Engine(decoder, TextCodec(words), limits, torch.device("cuda"))


def prompts_of(batch: int, vocabulary: int) -> list[list[int]]:
    """Random tokens."""
    found: list[list[int]] = torch.randint(0, vocabulary, (batch, PROMPT)).tolist()
    return found


@torch.inference_mode()
def check() -> None:
    """Greedy tokens in float32 are those of a plain loop."""
    _, decoder = made("tiny", torch.float32)
    prompts = [prompt[: 20 + 37 * place] for place, prompt in enumerate(prompts_of(11, 1000))]
    asked = [Sequence(key, prompt, Sampling(max_tokens=40, temperature=0)) for key, prompt in enumerate(prompts)]
    engine = engine_of(decoder, 16)
    assert engine._runner is not None, "there is no runner: no GPU or no Triton"
    pieces = engine.run(asked)
    same = 0
    for key, prompt in enumerate(prompts):
        tokens = list(prompt)
        for _ in range(40):
            tokens.append(int(decoder(torch.tensor([tokens], device="cuda"))[0, -1].argmax()))
        same += [piece.token for piece in pieces[key]] == tokens[len(prompt) :]
    print(
        json.dumps({"check": "greedy tokens of the plain loop, float32", "same": same, "of": len(prompts)}), flush=True
    )


def copy_bandwidth() -> float:
    """Bytes a second that a copy on the device reads and writes."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times = [seconds(lambda: target.copy_(source)) for _ in range(10)]
    return 2 * source.nbytes / statistics.median(times[2:])


def seconds(call: Callable[[], Any]) -> float:
    """Wall time until the device is done."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def measure(shape: str, batches: list[int], steps: int, rounds: int, bandwidth: float) -> None:
    """Ours and theirs in turns, a line for each batch."""
    theirs, decoder = made(shape, torch.bfloat16)
    engine = engine_of(decoder, max(batches))
    weights = sum(
        p.nbytes for n, p in decoder.named_parameters() if decoder.config.tied_head or n != "embedding.weight"
    )
    for batch in batches:
        ours_steps, theirs_steps, graph = [], [], []
        for _ in range(rounds):
            prompts = prompts_of(batch, decoder.config.vocabulary)
            for key, prompt in enumerate(prompts):
                engine.add(Sequence(key, prompt, Sampling(max_tokens=steps + 40, temperature=0)))
            while any(sequence.remaining > 1 for sequence in engine.scheduler.running) or engine.scheduler.waiting:
                engine.step()
            for _ in range(5):
                engine.step()
            ours_steps.append(seconds(lambda: [engine.step() for _ in range(steps)]) / steps)
            running = list(engine.scheduler.running)
            assert engine._runner is not None
            again = partial(engine._runner.run, running)
            graph.append(seconds(lambda: [again() for _ in range(20)]) / 20)  # noqa: B023 - called at once
            engine.drop(range(batch))
            rows = torch.tensor(prompts, device="cuda")

            def generate(count: int) -> Any:
                with torch.inference_mode():
                    return theirs.generate(
                        rows, attention_mask=torch.ones_like(rows), max_new_tokens=count, min_new_tokens=count,  # noqa: B023
                        do_sample=False, pad_token_id=0,
                    )  # fmt: skip

            theirs_steps.append((seconds(lambda: generate(17)) - seconds(lambda: generate(1))) / 16)
        context = PROMPT + 5 + steps // 2
        read = weights + batch * context * bytes_per_token(decoder.config, torch.bfloat16)
        mine, other, device = (statistics.median(each) for each in (ours_steps, theirs_steps, graph))
        print(
            json.dumps(
                {
                    "bench": f"decode, Llama {shape} bfloat16, {batch} sequences of {context} tokens",
                    "unit": "tokens/s",
                    "ours": round(batch / mine),
                    "peer": "transformers generate",
                    "theirs": round(batch / other),
                    "ratio": round(other / mine, 2),
                    "roofline": round(read / bandwidth / mine, 3),
                    "roofline_device": round(read / bandwidth / device, 3),
                    "step_ms": round(mine * 1000, 3),
                    "device_ms": round(device * 1000, 3),
                    "card": torch.cuda.get_device_name(),
                }
            ),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", default="1b,8b")
    parser.add_argument("--batches", default="64,128,256")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    check()
    bandwidth = copy_bandwidth()
    print(json.dumps({"copy_bandwidth_gb_s": round(bandwidth / 1e9)}), flush=True)
    for shape in asked.shapes.split(","):
        measure(shape, [int(batch) for batch in asked.batches.split(",")], asked.steps, asked.rounds, bandwidth)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
