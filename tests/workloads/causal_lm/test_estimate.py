"""Estimates against what is known: parameters of real models, and memory figures that are given."""

from __future__ import annotations

import pytest
import torch
from modelyard_workloads.estimate import Demand, check_memory, demand, parameter_count, step_seconds
from modelyard_workloads.exits import ConfigError
from modelyard_workloads.models.decoder import Decoder, DecoderConfig

GPT2 = DecoderConfig.gpt2(vocabulary=50257, context=1024, layers=12, width=768, heads=12)
GIB = 1 << 30


def need(average: bool = False, optimizer: str = "adamw", ranks_sharing: int = 1) -> Demand:
    """Of GPT-2 with rows of 1,024 tokens in bfloat16."""
    return demand(GPT2, 1024, optimizer=optimizer, average=average, bf16=True, ranks_sharing=ranks_sharing)


@pytest.mark.parametrize(
    "config",
    [
        GPT2,
        DecoderConfig.llama(vocabulary=512, context=64, layers=2, width=64, heads=4, key_value_heads=2),
        DecoderConfig.llama(vocabulary=512, context=64, layers=3, width=96, heads=4, tied_head=False),
    ],
)
def test_parameters_are_counted_exactly(config: DecoderConfig) -> None:
    with torch.device("meta"):
        model = Decoder(config)
    assert parameter_count(config) == sum(p.numel() for p in model.parameters())


def test_gpt2_is_what_it_is_known_to_be() -> None:
    assert parameter_count(GPT2) == 124_439_808
    assert need().fixed_bytes == 16 * 124_439_808
    assert need(optimizer="sgd").fixed_bytes == 12 * 124_439_808
    assert need(average=True).fixed_bytes == 20 * 124_439_808
    assert need(ranks_sharing=4).fixed_bytes == 4 * 124_439_808
    seconds = step_seconds(need(), batch_size=480, ranks=8, flops_per_second=150e12)
    assert 0.3 < seconds < 0.5  # 480 rows, six operations a parameter, on eight devices


def test_a_batch_that_fits_is_accepted_and_a_larger_one_is_told_what_fits() -> None:
    assert check_memory(need(), 80 * GIB, batch_size=16, ranks=1, parts=1) < 80 * GIB
    with pytest.raises(ConfigError) as caught:
        check_memory(need(), 16 * GIB, batch_size=512, ranks=2, parts=1)
    message = str(caught.value)
    assert message.startswith("parameters.batchSize: 512 needs about")
    steps, batch = (
        int(word.split(": ")[1].split()[0].strip(",")) for word in message.split("write ")[1].split(", or ")
    )
    check_memory(need(), 16 * GIB, batch_size=512, ranks=2, parts=steps)
    check_memory(need(), 16 * GIB, batch_size=batch, ranks=2, parts=1)
    with pytest.raises(ConfigError):
        check_memory(need(), 16 * GIB, batch_size=batch + 2, ranks=2, parts=1)


def test_a_model_that_cannot_fit_says_what_else_there_is() -> None:
    with pytest.raises(ConfigError, match=r"not one row fits beside 1\.9 GiB of weights and optimizer state"):
        check_memory(need(), GIB, batch_size=8, ranks=1, parts=1)
