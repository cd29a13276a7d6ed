"""Prometheus metrics of a server. Labels come from fixed sets only: no path, name or value of a client."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class ServerMetrics:
    """The one vocabulary of all servers, whatever the model and the protocol."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._model = model
        labels = ("model", "protocol", "route", "code")
        self._requests = Counter("modelyard_requests", "Requests answered.", labels, registry=self.registry)
        self._request_seconds = Histogram(
            "modelyard_request_seconds",
            "From the headers of a request to the end of its answer.",
            labels,
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._queue_seconds = self._histogram("modelyard_queue_seconds", "A request's wait for the model.", _SECONDS)
        self._inference_seconds = self._histogram("modelyard_inference_seconds", "One batch's computation.", _SECONDS)
        self._batch_rows = self._histogram("modelyard_batch_size", "Rows computed together.", _ROWS)
        self._batch_requests = self._histogram("modelyard_batch_requests", "Requests computed together.", _ROWS)
        self._explain_seconds = self._histogram(
            "modelyard_explain_seconds", "A request's explanations, with their wait.", _SECONDS
        )
        self._load_seconds = self._gauge(
            "modelyard_model_load_seconds", "From start to ready, golden answers included."
        )
        self._loaded = Gauge(
            "modelyard_model_loaded_info",
            "1 while the model with this digest answers.",
            ("model", "version", "digest", "task", "step"),
            registry=self.registry,
        )
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model",), buckets=buckets, registry=self.registry).labels(self._model)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model",), registry=self.registry).labels(self._model)

    def observe_load(self, in_flight: Callable[[], float], queue_depth: Callable[[], float]) -> None:
        """Read the two gauges from their owners at each scrape."""
        self._gauge("modelyard_requests_in_flight", "Requests not answered yet.").set_function(in_flight)
        self._gauge("modelyard_queue_depth", "Requests waiting for the model.").set_function(queue_depth)

    def request(self, protocol: str, route: str, code: int, seconds: float) -> None:
        """A request was answered."""
        key = (protocol, route, code)
        children = self._children.get(key)
        if children is None:
            values = (self._model, protocol, route, str(code))
            children = self._requests.labels(*values), self._request_seconds.labels(*values)
            self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)

    def batch(self, requests: int, rows: int, waits: list[float], seconds: float) -> None:
        """A batch ran; see BatchObserver."""
        self._batch_requests.observe(requests)
        self._batch_rows.observe(rows)
        self._inference_seconds.observe(seconds)
        for wait in waits:
            self._queue_seconds.observe(max(wait, 0))

    def step(self, sequences: int, waits: list[float], seconds: float) -> None:
        """A step of a language model; see BatchObserver. Its rows and its requests are sequences."""
        self.batch(sequences, sequences, waits, seconds)

    def explained(self, seconds: float) -> None:
        """A request for explanations was answered, or given up."""
        self._explain_seconds.observe(seconds)

    def loaded(self, version: str, digest: str, task: str, step: int, seconds: float) -> None:
        """The model answers from now on."""
        self._loaded.labels(self._model, version, digest, task, str(step)).set(1)
        self._load_seconds.set(seconds)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for a scrape."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type
