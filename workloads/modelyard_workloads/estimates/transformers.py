"""Estimates of encoders and decoders.

What the backward pass needs of each layer follows Korthikanti et al. 2022 (arXiv 2205.05198, section 4), without the
attention matrix, which fused attention never holds; a CPU does where attention has dropout. Arithmetic: 6 operations
for each parameter and token, and attention's own (Kaplan et al. 2020, arXiv 2001.08361).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from modelyard_workloads.estimates.demand import NUMBER, Demand, number_bytes, shared, trained
from modelyard_workloads.models.bert import BertConfig
from modelyard_workloads.models.decoder import DecoderConfig
from modelyard_workloads.parameters import Parameters
from modelyard_workloads.parameters.causal_lm import CausalLmParameters, LoraParameters
from modelyard_workloads.parameters.text import BertParameters

_INDEX = 8  # bytes of a token's number
_MATRICES = 3  # of attention, where they are held: probabilities, what dropout does and makes


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """How a device computes."""

    number: int  # bytes of what matrix products read
    fused: bool  # does it compute attention and norms in one piece each, whatever their kind?

    @classmethod
    def of(cls, parameters: Parameters, device: torch.device) -> Arithmetic:
        """A GPU does."""
        return cls(number=number_bytes(parameters.precision, device), fused=device.type == "cuda")


def decoder_parameters(config: DecoderConfig) -> int:
    """Parameters of a decoder; a tied head but once."""
    heads = config.heads + 2 * config.key_value_heads
    attention = config.width * config.head_width * (heads + config.heads)
    feed_forward = config.width * config.inner * (3 if config.gated else 2)
    block = attention + feed_forward + 2 * config.width
    if config.bias or config.attention_bias:
        block += heads * config.head_width + config.width
    if config.bias:
        block += config.inner + config.width + 2 * config.width
    tables = config.vocabulary * config.width * (1 if config.tied_head else 2)
    positions = config.context * config.width if config.family == "gpt2" else 0
    return config.layers * block + tables + positions + config.width * (2 if config.bias else 1)


def adapter_parameters(config: DecoderConfig, lora: LoraParameters) -> int:
    """Parameters of LoRA's matrices; see `models.lora.add_adapters`."""
    heads = (config.heads + 2 * config.key_value_heads) * config.head_width
    sides = [config.width + heads, config.heads * config.head_width + config.width]
    if lora.layers == "all":
        expanded = config.inner * (2 if config.gated else 1)
        sides += [config.width + expanded, config.inner + config.width]
    return config.layers * lora.rank * sum(sides)


def decoder_demand(
    config: DecoderConfig, length: int, parameters: CausalLmParameters, by: Arithmetic, *, ranks: int = 1
) -> Demand:
    """With rows of `length` tokens; `ranks` may share the model out."""
    count = decoder_parameters(config)
    lora = parameters.lora
    state = trained(count, parameters)
    if lora is not None:
        state = trained(adapter_parameters(config, lora), parameters, frozen=count)
    if parameters.sharding == "full":
        state = shared(state, ranks)
    heads = (2 * config.heads + 2 * config.key_value_heads) * config.head_width
    kept = heads + (4 if config.gated else 2) * config.inner  # read again by the backward pass, in the working type
    stream = 4 * config.width  # the stream and the norms' inputs, in float32
    if config.family == "llama" and not by.fused:
        kept += (config.heads + config.key_value_heads) * config.head_width  # turned by their positions
        stream += 2 * config.width  # normalised, but not yet scaled
    stream += 2 * config.width if config.dropout else 0
    matrix = _matrices(config.heads, length, config.dropout, by)
    layer = length * (kept * by.number + NUMBER * stream) + matrix
    return Demand(
        parameters=count,
        state=state,
        row_bytes=config.layers * layer + NUMBER * 3 * length * config.width,
        flops=6.0 * count * length + 12.0 * config.layers * config.width * length**2 / 2,
        smaller="smaller size, sharding: full, or lora",
    )


def _matrices(heads: int, length: float, dropout: float, by: Arithmetic) -> int:
    """Bytes of attention's matrices, in one layer and row."""
    return round(_MATRICES * NUMBER * heads * length**2) if dropout and not by.fused else 0


Head = Literal["pretraining", "rows", "tokens"]


def encoder_parameters(config: BertConfig, head: Head, classes: int) -> int:
    """Parameters of an encoder and the head of its task; `classes` is 0 where next-sentence prediction is off."""
    width = config.width
    block = 4 * width * width + 2 * width * config.inner + 9 * width + config.inner
    tables = (config.vocabulary + config.context + config.types + 2) * width
    pooler = width * width + width if classes and head != "tokens" else 0
    classifier = (width + 1) * classes
    masked = width * width + 3 * width + config.vocabulary if head == "pretraining" else 0
    return config.layers * block + tables + pooler + classifier + masked


def encoder_demand(
    config: BertConfig,
    length: float,
    parameters: BertParameters,
    by: Arithmetic,
    *,
    head: Head,
    classes: int,
    longest: float,
    masked: float = 0.0,
    private: bool = False,
) -> Demand:
    """With rows of `length` tokens on average, of which `masked` are guessed. `longest`: to how many they are padded
    where attention is not fused; `private`: each row has gradients of its own.
    """
    count = encoder_parameters(config, head, classes)
    width = config.width
    attended = length if by.fused else longest
    kept = 3 * width + 2 * config.inner  # the inputs of the linear layers and of GELU
    stream = 2 * width + (2 * width if config.dropout else 0)  # the norms' inputs; what dropout did
    layer = length * (kept * by.number + NUMBER * stream)
    layer += attended * 4 * width * by.number  # queries, keys, values, and what comes of them
    layer += _matrices(config.heads, attended, config.attention_dropout, by)
    guess = NUMBER * (3 * config.vocabulary + 4 * width) if head == "pretraining" else 0
    # At the end of the forward pass the logits, later the gradients of the layer that is computed.
    passing = max(masked * guess, NUMBER * length * (2 * config.inner + 4 * width))
    row = round(config.layers * layer + length * (NUMBER * 3 * width + 3 * _INDEX) + passing)
    matrices = count - (config.vocabulary + config.context + config.types) * width
    guessing = 6.0 * config.vocabulary * width * masked
    return Demand(
        parameters=count,
        state=trained(count, parameters),
        row_bytes=row + (NUMBER * count if private else 0),
        flops=6.0 * matrices * length + guessing + 12.0 * config.layers * width * length**2,
        smaller="smaller architecture, or a shorter sequenceLength",
    )
