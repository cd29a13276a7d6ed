"""docs/metrics.md names what is exported, all of it and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from modelyard_operator import metrics
from modelyard_operator.store import Store
from modelyard_operator.training.series import series
from modelyard_workloads.exporter import Exporter
from prometheus_client.metrics_core import Metric

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
_GAUGES = ("accuracy", "tokens_per_second", "model_flops_utilization")
EXAMPLES = {f"modelyard_training_{name}" for name in _GAUGES}
"""What the page says a trainer may add."""


def exported() -> Iterator[Metric]:
    yield from metrics.REGISTRY.collect()
    yield from metrics.ObjectCollector(Store().of_kind, series).collect()
    yield from Exporter("ns", "demo").registry.collect()


def test_the_page_names_every_series_and_no_other() -> None:
    names = {m.name + ("_total" if m.type == "counter" else "") for m in exported() if m.name.startswith("modelyard_")}
    told = set(re.findall(r"modelyard_[a-z0-9_]+", PAGE.read_text(encoding="utf-8")))
    assert told - EXAMPLES == names
