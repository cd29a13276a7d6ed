"""A client of the Open Inference Protocol v2, over HTTP, with the standard library."""

import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demo.errors import DemoError

TIMEOUT_SECONDS = 30.0
Images = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """The label, its probability, and the seconds from sending to the whole answer."""

    label: str
    probability: float
    seconds: float


class Client:
    """One connection, kept open; not for two threads at once."""

    def __init__(self, port: int, model: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        self._path = f"/v2/models/{model}/infer"

    def predict(self, image: Images) -> Prediction:
        """`image` (C, H, W) with pixels 0..1."""
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, *image.shape], "data": image.ravel().tolist()}
        started = time.perf_counter()
        outputs = self._post({"inputs": [tensor]})
        seconds = time.perf_counter() - started
        return Prediction(str(outputs["label"][0]), max(float(p) for p in outputs["probabilities"]), seconds)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _post(self, body: object) -> dict[str, list[Any]]:
        try:
            self._connection.request("POST", self._path, json.dumps(body), {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise DemoError(f"the service did not answer POST {self._path}: {error!r}") from error
        if response.status != 200:
            raise DemoError(f"POST {self._path}: {response.status} {text[:500].decode(errors='replace')}")
        return {output["name"]: output["data"] for output in json.loads(text)["outputs"]}


def predict_all(port: int, model: str, images: Images, clients: int = 1) -> list[Prediction]:
    """A prediction for each of the images (N, C, H, W), one image a request, `clients` requests at a time."""
    found: list[Prediction | None] = [None] * len(images)
    problems: list[Exception] = []

    def work(indices: Sequence[int]) -> None:
        client = Client(port, model)
        try:
            for index in indices:
                found[index] = client.predict(images[index])
        except Exception as error:
            problems.append(error)
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(range(first, len(images), clients),)) for first in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return [prediction for prediction in found if prediction is not None]
