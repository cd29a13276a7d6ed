"""What is measured of generation, under vLLM's names: dashboards, autoscalers and inference gateways know them.

Source of names, labels and buckets: vLLM, v1/metrics/loggers.py. `engine` is always "0": there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import Metric

    from modelyard_workloads.serve.generation.engine import Engine

_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10, 20)
_WHOLE = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_REASONS = ("stop", "length", "abort", "error")
_LABELS = ("model_name", "engine")


class GenerationMetrics:
    """Used on the event loop's thread; the engine's own counts are read when somebody scrapes."""

    def __init__(self, registry: CollectorRegistry, model: str, engine: Engine, waiting: Callable[[], int]) -> None:
        self._values = (model, "0")
        self._registry = registry
        self.total = 0  # tokens of prompts and answers
        self._first = self._histogram("time_to_first_token_seconds", "Until the first token.", _FIRST)
        self._between = self._histogram("inter_token_latency_seconds", "Between two tokens.", _BETWEEN)
        # Its name in older dashboards.
        self._between_before = self._histogram("time_per_output_token_seconds", "Between two tokens.", _BETWEEN)
        self._mean = self._histogram("request_time_per_output_token_seconds", "Mean of a request.", _BETWEEN)
        self._whole = self._histogram("e2e_request_latency_seconds", "Until the last token.", _WHOLE)
        self._queue = self._histogram("request_queue_time_seconds", "Until the first step.", _WHOLE)
        self._prefill = self._histogram("request_prefill_time_seconds", "First step to first token.", _WHOLE)
        self._decode = self._histogram("request_decode_time_seconds", "First token to last.", _WHOLE)
        self._inference = self._histogram("request_inference_time_seconds", "First step to last token.", _WHOLE)
        self._prompt_lengths = self._histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._lengths = self._histogram("request_generation_tokens", "Tokens of an answer.", _TOKENS)
        self._prompts = self._counter("prompt_tokens", "Tokens of prompts that were computed.")
        self._generated = self._counter("generation_tokens", "Tokens that were generated.")
        ends = Counter("vllm:request_success", "Ended requests.", (*_LABELS, "finished_reason"), registry=registry)
        self._ends = {reason: ends.labels(*self._values, reason) for reason in _REASONS}
        self._gauge("num_requests_running", "In the steps.", lambda: len(engine.scheduler.running))
        self._gauge("num_requests_waiting", "In the queue.", waiting)
        self._gauge("kv_cache_usage_perc", "Share of the cache in use, 0 to 1.", lambda: engine.pool.used)
        self._gauge("gpu_cache_usage_perc", "Its name in older dashboards.", lambda: engine.pool.used)
        Gauge(
            "vllm:cache_config_info",
            "1; the cache's size is in the labels.",
            (*_LABELS, "block_size", "num_gpu_blocks", "enable_prefix_caching"),
            registry=registry,
        ).labels(*self._values, str(engine.pool.size), str(engine.pool.count), str(engine.limits.prefix_caching)).set(1)
        # There are no adapters; gateways that choose a server by them look for the metric all the same.
        Gauge(
            "vllm:lora_requests_info",
            "Adapters in use: none.",
            ("running_lora_adapters", "waiting_lora_adapters", "max_lora"),
            registry=registry,
        ).labels("", "", "0").set(1)
        registry.register(_EngineCounts(engine, self._values))

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vllm:{name}", text, _LABELS, buckets=buckets, registry=self._registry).labels(*self._values)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(*self._values)

    def _gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        gauge = Gauge(f"vllm:{name}", text, _LABELS, registry=self._registry).labels(*self._values)
        gauge.set_function(read)

    def first_token(self, prompt_tokens: int, queued: float, seconds: float) -> None:
        """A sequence has its first token (or its prompt is computed, where no more was asked for)."""
        self._prompts.inc(prompt_tokens)
        self.total += prompt_tokens
        self._prompt_lengths.observe(prompt_tokens)
        self._queue.observe(max(queued, 0))
        self._first.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """A sequence has another token."""
        self._between.observe(seconds)
        self._between_before.observe(seconds)

    def tokens(self, count: int) -> None:
        """A step gave so many."""
        self._generated.inc(count)
        self.total += count

    def computed(self, prefill: float, decode: float) -> None:
        """Seconds of a sequence that ended: from its first step to the first token, and from there to the last."""
        prefill = max(prefill, 0)
        self._prefill.observe(prefill)
        self._decode.observe(decode)
        self._inference.observe(prefill + decode)

    def ended(self, reason: str, tokens: int, seconds: float, since_first: float) -> None:
        """A sequence ended; `seconds` in all, `since_first` from the first token on."""
        self._ends[reason].inc()
        self._lengths.observe(tokens)
        self._whole.observe(seconds)
        if tokens > 1:
            self._mean.observe(since_first / (tokens - 1))


class _EngineCounts(Collector):
    """The counts that the scheduler keeps itself."""

    def __init__(self, engine: Engine, values: tuple[str, ...]) -> None:
        self._counts = engine.scheduler.counts
        self._values = values

    def collect(self) -> Iterable[Metric]:
        """For a scrape."""
        for name, text, value in (
            ("num_preemptions", "Sequences that gave their blocks back and were computed again.", "preemptions"),
            ("prefix_cache_queries", "Tokens that were looked for in the cache.", "prefix_queries"),
            ("prefix_cache_hits", "Tokens that were found there.", "prefix_hits"),
        ):
            family = CounterMetricFamily(f"vllm:{name}", text, labels=_LABELS)
            family.add_metric(self._values, getattr(self._counts, value))
            yield family
