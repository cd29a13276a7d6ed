"""How well scores tell the clicked from the others, from sums that can be added over batches and ranks.

The AUC is that of a histogram of 32,000 bins over asinh(logit), 1/1600 wide, in which ties count half as usual. Pairs
in the same bin are the only ones that it does not compare: the error is at most half their share, and mostly far less,
since errors have both signs (2e-5 against the exact AUC of 20,000 scores in the tests).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_RANGE, _PER_UNIT = 10, 1600  # asinh(logit) reaches 10 at a logit of 11,000
BINS = 2 * _RANGE * _PER_UNIT


def ranking_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,), (B,) of 0 and 1 -> float64 [samples, clicks, summed cross-entropy, summed probability, histogram of the
    clicked, histogram of the others]
    """
    bins = ((logits.asinh() + _RANGE) * _PER_UNIT).floor().clamp(0, BINS - 1).long()
    clicked = labels > 0.5
    histograms = torch.bincount(bins + BINS * (~clicked), minlength=2 * BINS).double()
    loss = F.binary_cross_entropy_with_logits(logits.double(), labels.double(), reduction="sum")
    scalars = torch.stack([loss.new_tensor(len(labels)), clicked.sum().double(), loss, logits.double().sigmoid().sum()])
    return torch.cat([scalars, histograms])


def ranking_metrics(sums: Tensor) -> dict[str, float]:
    """auc (0.5 when there is only one kind), logLoss in nats, calibration: predicted clicks / clicks."""
    samples, clicks, loss, predicted = sums[:4].tolist()
    clicked, others = sums[4 : 4 + BINS], sums[4 + BINS :]
    below = others.cumsum(0) - others  # of the others, those in lower bins
    pairs = float(clicked.sum() * others.sum())
    right = float((clicked * (below + others / 2)).sum())
    return {
        "auc": right / pairs if pairs else 0.5,
        "logLoss": loss / samples,
        "calibration": predicted / clicks if clicks else float(predicted > 0),
    }
