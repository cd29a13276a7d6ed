"""The peer KServe, its Python server with one worker and without a log line for each request.

`kserve_server.py WEIGHTS --http_port=… --grpc_port=… --enable_latency_logging=false`
"""

from __future__ import annotations

import sys
from typing import Any

import kserve
import numpy as np
import torch
from bench.peers import classifier
from kserve.utils.utils import get_predict_response


class Model(kserve.Model):  # type: ignore[misc]
    """Predicts on the event loop, as the examples of KServe do."""

    def __init__(self, weights: str) -> None:
        super().__init__(classifier.NAME)
        self.model = classifier.load(weights)
        self.ready = True

    async def predict(self, payload: Any, *_: Any, **__: Any) -> Any:
        """An InferRequest to an InferResponse."""
        x = torch.from_numpy(np.array(payload.inputs[0].as_numpy(), dtype=np.float32))
        with torch.inference_mode():
            answer = self.model(x).numpy()
        return get_predict_response(payload, answer, classifier.NAME)


if __name__ == "__main__":
    weights = sys.argv.pop(1)
    arguments, _ = kserve.model_server.parser.parse_known_args()
    del arguments
    kserve.ModelServer(workers=1).start([Model(weights)])
