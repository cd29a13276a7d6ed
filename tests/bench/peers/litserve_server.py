"""The peer LitServe with its batching, one worker: `litserve_server.py WEIGHTS PORT`.

LitServe has no Open Inference Protocol; its API reads and writes the protocol's JSON here, in its own hooks. It looks
at their annotations, so they must be no strings.
"""

import sys
from typing import Any

import litserve
import numpy as np
import torch
from bench.peers import classifier


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Decode, stack, predict, take apart, encode."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        """In the worker."""
        self.model = classifier.load(sys.argv[1])

    def decode_request(self, request: dict[str, Any]) -> np.ndarray[Any, Any]:
        """One row."""
        return np.array(request["inputs"][0]["data"], dtype=np.float32)

    def batch(self, inputs: list[np.ndarray[Any, Any]]) -> torch.Tensor:
        """Rows to (B, 64)."""
        return torch.from_numpy(np.stack(inputs))

    def predict(self, x: torch.Tensor) -> np.ndarray[Any, Any]:
        """(B, 64) -> (B, 10)"""
        with torch.inference_mode():
            answer: np.ndarray[Any, Any] = self.model(x).numpy()
        return answer

    def unbatch(self, output: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """(B, 10) to rows."""
        return list(output)

    def encode_response(self, output: np.ndarray[Any, Any]) -> dict[str, Any]:
        """One row's answer."""
        data = output.tolist()
        entry = {"name": classifier.OUTPUT, "shape": [1, len(data)], "datatype": "FP32", "data": data}
        return {"model_name": classifier.NAME, "outputs": [entry]}


if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.0, api_path=f"/v2/models/{classifier.NAME}/infer")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue="--fast-queue" in sys.argv)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)
