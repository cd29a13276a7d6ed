"""Small language models with random weights, a tokenizer of bytes, and the plain loop an engine must agree with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import safetensors.torch
import torch
from modelyard_workloads.artifact import (
    Architecture,
    Artifact,
    Description,
    Golden,
    TensorSpec,
    TensorValue,
    TrainingOrigin,
    write_artifact,
)
from modelyard_workloads.data.bpe import TextTokenizer
from modelyard_workloads.data.chat import DEFAULT_TEMPLATE, ChatTemplate
from modelyard_workloads.models.decoder import Attend, AttendProjected, Decoder, DecoderConfig
from modelyard_workloads.models.decoder_huggingface import huggingface_config, to_huggingface
from modelyard_workloads.serve.generation.decode import MakeRunner, graph_runner
from modelyard_workloads.serve.generation.engine import Engine, EngineLimits
from modelyard_workloads.serve.generation.language import Language
from modelyard_workloads.serve.generation.runtime import GenerationRuntime
from modelyard_workloads.serve.generation.sequences import Sampling, Sequence
from modelyard_workloads.serve.generation.text import TextCodec
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

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


def engine(
    decoder: Decoder,
    *,
    blocks: int = 64,
    together: bool | None = None,
    runner_of: MakeRunner = graph_runner,
    **limits: int,
) -> Engine:
    """An engine whose cache has so many blocks of 16 tokens; `together` and `runner_of`: as on an accelerator."""
    per_block = 16 * 2 * decoder.config.layers * decoder.config.key_value_heads * decoder.config.head_width * 4
    chosen = {"max_length": CONTEXT, "max_sequences": 4, "max_step_tokens": 32, "prefix_caching": True} | limits
    return Engine(
        decoder,
        codec(),
        EngineLimits(cache_bytes=blocks * per_block, **chosen),  # type: ignore[arg-type]
        torch.device("cpu"),
        together=together,
        runner_of=runner_of,
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


def language_artifact(root: Path, *, family: Literal["gpt2", "llama"] = "gpt2", golden: bool = True) -> Artifact:
    """A causal-lm artifact below `root` in Hugging Face's layout, with greedy continuations as golden answers."""
    decoder = model(family)

    def fill(directory: Path) -> Description:
        config = decoder.config
        weights = to_huggingface(config, decoder.state_dict())
        safetensors.torch.save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        raw = huggingface_config(config, end_token=256)
        (directory / "config.json").write_text(json.dumps(raw))
        TextTokenizer(byte_tokenizer(), end=END).save(directory, context=config.context)
        return Description(
            task="causal-lm",
            architecture=Architecture(name=family),
            weights=["model.safetensors"],
            inputs=[TensorSpec(name="input_ids", datatype="INT64", shape=[-1, -1])],
            outputs=[TensorSpec(name="logits", datatype="FP32", shape=[-1, config.vocabulary])],
            preprocess={"greedy": _greedy(decoder)} if golden else {},
            golden=[_golden(decoder)] if golden else [],
        )

    return write_artifact(root, fill, TrainingOrigin(name="story", step=9), "2026-01-01T00:00:00Z")


PROMPTS = [list(b"Once upon"), list(b"The quick")]


def _greedy(decoder: Decoder) -> list[dict[str, list[int]]]:
    return [{"prompt": prompt, "continuation": plain(decoder, prompt, 12)} for prompt in PROMPTS]


@torch.inference_mode()
def _golden(decoder: Decoder) -> Golden:
    logits = decoder(torch.tensor(PROMPTS))[:, -1]
    return Golden(
        inputs=[TensorValue(name="input_ids", datatype="INT64", shape=[2, 9], data=PROMPTS)],
        outputs=[TensorValue(name="logits", datatype="FP32", shape=list(logits.shape), data=logits.tolist())],
    )


POISON = 200


class GatedDecoder(Decoder):
    """Computes while `gate` is open; a step that has the token POISON fails."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.gate = threading.Event()
        self.gate.set()
        self.steps = 0

    def hidden(
        self, tokens: Tensor, positions: Tensor | None = None, attend: Attend | AttendProjected | None = None
    ) -> Tensor:
        """As the decoder."""
        assert self.gate.wait(120)
        self.steps += 1
        if bool((tokens == POISON).any()):
            raise RuntimeError(f"poison in {tokens}")
        return super().hidden(tokens, positions, attend)


def gated() -> GatedDecoder:
    """The GPT-2 of `model`, with a gate."""
    plain_model = model()
    decoder = GatedDecoder(plain_model.config)
    decoder.load_state_dict(plain_model.state_dict())
    return decoder.eval()


def runtime(decoder: Decoder, *, max_sequences: int = 4) -> GenerationRuntime:
    """As the server has it."""
    template = ChatTemplate(DEFAULT_TEMPLATE, end_token=END)
    spoken = Language(codec=codec(), vocabulary=decoder.config.vocabulary, ends=frozenset({256}), template=template)
    return GenerationRuntime(engine(decoder, max_sequences=max_sequences), spoken)
