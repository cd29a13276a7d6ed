"""Prometheus metrics of a training, served by the launcher of node rank 0."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

PORT_VARIABLE = "MODELYARD_METRICS_PORT"
DEFAULT_PORT = 9400

# metric -> (field of a progress event, help)
_PROGRESS = {
    "step": ("step", "Optimizer steps done."),
    "total_steps": ("totalSteps", "Optimizer steps of the whole training."),
    "epoch": ("epoch", "Current epoch, from 1."),
    "samples_per_second": ("samplesPerSecond", "Samples per second over all ranks."),
    "step_seconds": ("stepSeconds", "Seconds for one optimizer step."),
    "data_wait_seconds": ("dataWaitSeconds", "Seconds of a step spent waiting for data on rank 0."),
    "learning_rate": ("learningRate", "Learning rate of the latest step."),
}


class Exporter:
    """Gauges of one training; every one is labelled with its namespace and name."""

    def __init__(self, namespace: str, name: str) -> None:
        self._labels = {"namespace": namespace, "name": name}
        self.registry = CollectorRegistry()
        self._progress = {field: self._gauge(metric, text) for metric, (field, text) in _PROGRESS.items()}
        self._metrics: dict[str, Gauge] = {"loss": self._gauge("loss", "Training loss, averaged over the ranks.")}
        self._save_seconds = self._gauge("checkpoint_save_seconds", "Seconds the latest checkpoint took.")
        self._stall_seconds = self._gauge("checkpoint_stall_seconds", "Seconds it stopped the training.")
        self._saved_step = self._gauge("checkpoint_step", "Step of the latest checkpoint.")
        self._saved_bytes = self._gauge("checkpoint_size_bytes", "Size of the latest checkpoint.")
        self._seconds = Gauge(
            "modelyard_training_attempt_seconds",
            "Seconds of this attempt by cause; they sum to the time since its start.",
            [*self._labels, "cause"],
            registry=self.registry,
        )
        self._saves = Counter(
            "modelyard_training_checkpoints",
            "Checkpoints saved by this pod.",
            list(self._labels),
            registry=self.registry,
        ).labels(**self._labels)

    def serve(self, environment: Mapping[str, str]) -> None:
        """Serve /metrics; a port that is taken is said once and not fatal."""
        text = environment.get(PORT_VARIABLE, "")
        port = int(text) if text.isdecimal() else DEFAULT_PORT
        try:
            start_http_server(port, registry=self.registry)
        except OSError as error:
            sys.stderr.write(f"no metrics on port {port}: {error}\n")

    def progress(self, event: Mapping[str, Any]) -> None:
        """Take over a progress event."""
        for field, gauge in self._progress.items():
            gauge.set(event.get(field, 0))
        for text, values in (("Latest {} of the evaluation.", "metrics"), ("{} over all ranks.", "rates")):
            for name, value in event.get(values, {}).items():
                if name not in self._metrics:
                    self._metrics[name] = self._gauge(_snake(name), text.format(name))
                self._metrics[name].set(value)

    def timing(self, seconds: Mapping[str, float]) -> None:
        """Take over the seconds by cause."""
        for cause, value in seconds.items():
            self._seconds.labels(**self._labels, cause=cause).set(value)

    def checkpoint(self, event: Mapping[str, Any]) -> None:
        """Take over a checkpoint event."""
        self._saved_step.set(event.get("step", 0))
        self._saved_bytes.set(event.get("sizeBytes", 0))
        if "saveSeconds" in event:  # else it is the one that was resumed from
            self._save_seconds.set(event["saveSeconds"])
            self._stall_seconds.set(event["stallSeconds"])
            self._saves.inc()

    def _gauge(self, name: str, text: str) -> Gauge:
        gauge = Gauge(f"modelyard_training_{name}", text, list(self._labels), registry=self.registry)
        return gauge.labels(**self._labels)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name if letter.isalnum())
