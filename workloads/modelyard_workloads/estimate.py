"""What training a decoder takes, before it begins: memory of a device and arithmetic of a step. Pure functions.

Memory: weights, gradients and AdamW's two moments in float32 (16 bytes a parameter; SGD and Muon keep one moment),
beside them what the backward pass needs of each layer (Korthikanti et al. 2022, arXiv 2205.05198, section 4, without
the attention matrix, which fused attention never holds). Arithmetic: 6 operations for each parameter and token, and
attention's own (Kaplan et al. 2020, arXiv 2001.08361).
"""

from __future__ import annotations

from dataclasses import dataclass

from modelyard_workloads.exits import ConfigError, Issue
from modelyard_workloads.models.decoder import DecoderConfig

_MOMENTS = {"sgd": 1, "adamw": 2, "muon": 1}
_SHARE_USABLE = 0.92  # of a device's memory; the rest is the libraries' and fragmentation


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What one rank needs."""

    fixed_bytes: int  # weights, gradients, optimizer state, moving average
    row_bytes: int  # for each row of the part of a batch that is computed at once
    flops: float  # of a step, for each row of a batch


def parameter_count(config: DecoderConfig) -> int:
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


def demand(
    config: DecoderConfig, length: int, *, optimizer: str, average: bool, bf16: bool, ranks_sharing: int = 1
) -> Demand:
    """`ranks_sharing`: among how many ranks the model is shared out."""
    parameters = parameter_count(config)
    copies = 2 + _MOMENTS[optimizer] + average
    heads = (2 * config.heads + 2 * config.key_value_heads) * config.head_width
    kept = heads + (4 if config.gated else 2) * config.inner  # read again by the backward pass, in the working type
    stream = 4 * config.width  # the stream and the norms' inputs, in float32
    layer = length * (kept * (2 if bf16 else 4) + 4 * stream)
    flops = 6.0 * parameters * length + 12.0 * config.layers * config.width * length**2 / 2
    return Demand(
        fixed_bytes=4 * parameters * copies // ranks_sharing,
        row_bytes=config.layers * layer + 4 * 3 * length * config.width,
        flops=flops,
    )


def check_memory(need: Demand, available: int, *, batch_size: int, ranks: int, parts: int) -> int:
    """Bytes that a rank will need. Raises ConfigError with the largest batch that fits, or says that none does."""
    rows = -(-batch_size // (ranks * parts))
    total = need.fixed_bytes + rows * need.row_bytes
    usable = int(available * _SHARE_USABLE)
    if total <= usable:
        return total
    fitting = max(0, (usable - need.fixed_bytes) // need.row_bytes)
    sizes = f"needs about {_gib(total)}, a device has {_gib(available)}"
    if not fitting:
        advice = f"not one row fits beside {_gib(need.fixed_bytes)} of weights and optimizer state: take a smaller size"
        raise ConfigError([Issue("parameters.batchSize", f"{sizes}; {advice}, sharding: full, or lora")])
    enough = -(-batch_size // (ranks * fitting))
    advice = f"write accumulationSteps: {enough}, or batchSize: {fitting * ranks * parts} or less"
    raise ConfigError([Issue("parameters.batchSize", f"{batch_size} {sizes}; {advice}")])


def step_seconds(need: Demand, *, batch_size: int, ranks: int, flops_per_second: float) -> float:
    """Seconds of a step on devices that reach so many operations a second."""
    return need.flops * batch_size / ranks / flops_per_second


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
