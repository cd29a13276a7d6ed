"""Our server around the classifier, the process otherwise as a pod runs it: `ours.py WEIGHTS PORT GRPC_PORT`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping

import torch
from bench.peers import classifier
from modelyard_workloads.serve.__main__ import tune_interpreter
from modelyard_workloads.serve.tensors import Array, TensorSpec
from servers.inprocess import configure, running


class Runtime:
    """What a builtin task's runtime does: arrays to tensors, the forward pass, tensors to arrays."""

    task = "image-classification"
    labels = ()
    inputs = (TensorSpec(classifier.INPUT, "FP32", (-1, classifier.FEATURES)),)
    outputs = (TensorSpec(classifier.OUTPUT, "FP32", (-1, classifier.CLASSES)),)

    def __init__(self, weights: str) -> None:
        self._model = classifier.load(weights)

    def check(self, arrays: Mapping[str, Array]) -> None:
        """Every finite number is allowed."""

    def predict(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """{x: [B, 64]} -> {probabilities: [B, 10]}"""
        with torch.inference_mode():
            return {classifier.OUTPUT: self._model(torch.from_numpy(arrays[classifier.INPUT])).numpy()}


def main() -> None:
    """Serve until killed."""
    weights, port, grpc_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    config = configure(
        model={"name": classifier.NAME, "path": "/nowhere", "version": "r1"},
        server={"host": "127.0.0.1", "port": port, "grpcPort": grpc_port},
    )
    tune_interpreter()
    with running(Runtime(weights), config):
        signal.pause()


if __name__ == "__main__":
    main()
