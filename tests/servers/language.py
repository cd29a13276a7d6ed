"""Small language models with random weights, a tokenizer of bytes, and the plain loop an engine must agree with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from modelyard_workloads.models.decoder import Decoder, DecoderConfig
from modelyard_workloads.serve.generation.engine import Engine, EngineLimits
from modelyard_workloads.serve.generation.sequences import Sampling, Sequence
from modelyard_workloads.serve.generation.text import TextCodec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END = "<|endoftext|>"
CONTEXT = 128


def byte_tokenizer(merges: Iterable[tuple[str, str]] = ()) -> Tokenizer:
    """GPT-2's byte-level BPE with the 256 bytes, these merges, and an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merged = list(merges)
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(a + b for a, b in merged)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merged))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(END, special=True)])
    return tokenizer


def codec() -> TextCodec:
    """Of the plain byte tokenizer: 257 tokens."""
    return TextCodec(byte_tokenizer())


def model(family: Literal["gpt2", "llama"] = "gpt2", seed: int = 5) -> Decoder:
    """Two layers, with weights large enough that the most probable token depends on all that came before."""
    torch.manual_seed(seed)
    if family == "gpt2":
        config = DecoderConfig.gpt2(vocabulary=257, context=CONTEXT, layers=2, width=32, heads=4)
    else:
        config = DecoderConfig.llama(
            vocabulary=257, context=CONTEXT, layers=2, width=32, heads=4, key_value_heads=2, tied_head=False
        )
    decoder = Decoder(config).eval()
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return decoder


def engine(decoder: Decoder, *, blocks: int = 64, **limits: int) -> Engine:
    """An engine whose cache has so many blocks of 16 tokens."""
    per_block = 16 * 2 * decoder.config.layers * decoder.config.key_value_heads * decoder.config.head_width * 4
    chosen = {"max_length": CONTEXT, "max_sequences": 4, "max_step_tokens": 32, "prefix_caching": True} | limits
    return Engine(
        decoder,
        codec(),
        EngineLimits(cache_bytes=blocks * per_block, **chosen),  # type: ignore[arg-type]
        torch.device("cpu"),
    )


@torch.inference_mode()
def plain(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    """The plain greedy loop: everything is computed again for every token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(decoder(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def greedy(key: int, prompt: list[int], count: int) -> Sequence:
    """A sequence that takes the most probable tokens."""
    return Sequence(key, prompt, Sampling(max_tokens=count, temperature=0))
