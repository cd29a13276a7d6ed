"""A selection of the series in Prometheus' text format."""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

HIDDEN_LABELS = frozenset({"namespace", "name", "model", "protocol"})
PROBES = frozenset({"live", "ready"})  # routes that only the kubelet asks for


@dataclass(frozen=True)
class Series:
    """One line for the table; `value` as it is shown."""

    name: str
    labels: str
    value: str
    help: str


def select(text: str, names: Sequence[str]) -> list[Series]:
    """The series of these metrics, in the order of `names`; a histogram becomes the mean of its observations.

    A name that is not served is left out, and so are the kubelet's probes and labels that are the same in every line.
    """
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found: list[Series] = []
    for name in names:
        family = families.get(name.removesuffix("_total"), families.get(name))
        if family is None:
            continue
        if family.type == "histogram":
            rows = _means(family)
        else:
            samples = (sample for sample in family.samples if not sample.name.endswith("_created"))
            rows = [(sample.name, sample.labels, _value(sample.value)) for sample in samples]
        found += [
            Series(sample, _labels(labels), value, family.documentation)
            for sample, labels, value in rows
            if labels.get("route") not in PROBES
        ]
    return found


def _means(family: object) -> list[tuple[str, dict[str, str], str]]:
    sums: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
    name = str(family.name)  # type: ignore[attr-defined]
    for sample in family.samples:  # type: ignore[attr-defined]
        if sample.name in (f"{name}_sum", f"{name}_count"):
            sums.setdefault(tuple(sorted(sample.labels.items())), {})[sample.name[len(name) :]] = sample.value
    return [
        (name, dict(labels), f"{_value(parts['_sum'] / parts['_count'])} mean of {parts['_count']:.0f}")
        for labels, parts in sums.items()
        if parts.get("_count")
    ]


def _labels(labels: dict[str, str]) -> str:
    shown = [f'{name}="{_short(value)}"' for name, value in labels.items() if name not in HIDDEN_LABELS]
    return "{" + ", ".join(shown) + "}" if shown else ""


def _short(value: str) -> str:
    return value if len(value) <= 20 else f"{value[:19]}…"


def _value(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value / 2**20:.0f} Mi" if abs(value) >= 2**20 else f"{value:.4g}"
