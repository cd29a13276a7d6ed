"""The resource ModelService: its columns and `/scale`."""

from __future__ import annotations

from modelyard_operator.resources import AGE, Column, Resource
from modelyard_operator.service.spec import ModelServiceSpec
from modelyard_operator.service.status_schema import ModelServiceStatus

RESOURCE = Resource(
    kind="ModelService",
    plural="modelservices",
    short_name="ms",
    description="A model to be served over HTTP: the artifact of a ModelTraining, or one on a volume.",
    spec=ModelServiceSpec,
    status=ModelServiceStatus,
    columns=(
        Column("Model", ".status.display.model"),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Replicas", ".status.display.ready"),
        Column("Traffic", ".status.display.traffic"),
        Column("URL", ".status.url"),
        AGE,
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', wide=True),
    ),
    scalable=True,
)
