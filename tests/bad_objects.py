"""The table of bad objects, `operator/bad_specs.yaml`, for the tests of the operator and of the real API server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).parent / "operator" / "bad_specs.yaml"


@dataclass(frozen=True)
class BadObject:
    """One row: an object, the issue that the operator must find, and what the API server says, if it refuses."""

    name: str
    body: dict[str, Any]
    field: str
    says: str
    admission: str | None

    def __str__(self) -> str:
        return self.name


def bad_objects() -> list[BadObject]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [BadObject(row["name"], _body(row), row["field"], row["says"], row.get("admission")) for row in rows]


def _body(row: dict[str, Any]) -> dict[str, Any]:
    kind, spec = ("ModelTraining", row["training"]) if "training" in row else ("ModelService", row["service"])
    body = {
        "apiVersion": "modelyard.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": row.get("object", "bad")},
        "spec": spec,
    }
    return {key: value for key, value in body.items() if value is not None}
