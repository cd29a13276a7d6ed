"""The peer MLServer: a custom runtime, named in the model-settings.json that the benchmark writes."""

from __future__ import annotations

import numpy as np
import torch
from bench.peers import classifier
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):  # type: ignore[misc]
    """The model in MLServer's own process (parallel_workers 0), which is the quicker way on one core."""

    async def load(self) -> bool:
        """The weights are the model's uri."""
        self.model = classifier.load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request, or a batch of MLServer's making."""
        x = torch.from_numpy(np.array(self.decode(payload.inputs[0], default_codec=NumpyCodec), dtype=np.float32))
        with torch.inference_mode():
            answer = self.model(x).numpy()
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(classifier.OUTPUT, answer)])
