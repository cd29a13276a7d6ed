"""The model that all servers of the benchmark serve: 64 numbers to the probabilities of 10 classes.

Needs torch and safetensors only, so that the environment of every peer can import it. `python classifier.py PATH`
writes weights; `python classifier.py PATH --time` prints the microseconds of one row, alone and in a batch of 32.
"""

from __future__ import annotations

import json
import sys
from time import process_time

import safetensors.torch
import torch
from torch import Tensor, nn

INPUT, OUTPUT, NAME = "x", "probabilities", "classifier"
FEATURES, CLASSES = 64, 10


class Classifier(nn.Module):
    """(B, 64) -> probabilities (B, 10)"""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(FEATURES, 256), nn.ReLU(), nn.Linear(256, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.softmax(self.layers(x), dim=-1)


def load(path: str) -> Classifier:
    """With the weights in a file of safetensors, ready to answer; on one thread, as every server here."""
    torch.set_num_threads(1)
    model = Classifier().eval()
    model.load_state_dict(safetensors.torch.load_file(path))
    return model


def write(path: str) -> None:
    """Random weights: speed does not depend on them."""
    torch.manual_seed(5)
    safetensors.torch.save_file(Classifier().state_dict(), path)


def row_microseconds(model: Classifier, rows: int, repeat: int = 300) -> float:
    """CPU time of one row in a batch of `rows`; the quickest of five."""
    x = torch.rand(rows, FEATURES)
    times = []
    with torch.inference_mode():
        for _ in range(5):
            started = process_time()
            for _ in range(repeat):
                model(x)
            times.append((process_time() - started) / repeat / rows)
    return 1e6 * min(times)


if __name__ == "__main__":
    if "--time" in sys.argv:
        served = load(sys.argv[1])
        print(json.dumps({str(rows): row_microseconds(served, rows) for rows in (1, 32)}))
    else:
        write(sys.argv[1])
