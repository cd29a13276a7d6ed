"""What a CustomResourceDefinition says beside the schema: names, columns, rules over the whole object, `/scale`.

Unknown fields: a schema cannot refuse them, it is the request that does. kubectl asks for strict validation,
server-side apply refuses what no schema declares, other clients get a warning and the field is dropped. Keeping such
fields (preserve-unknown-fields) would show them to the operator, but take the immediate refusal from kubectl's users;
so they are kept only in `parameters`, which the operator checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelyard_operator.objects import GROUP, VERSION
from modelyard_operator.openapi import openapi_schema
from modelyard_operator.parsing import NAME_RULE
from modelyard_operator.schema import VALIDATIONS, Model, Rule


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`; a wide one is only in `-o wide`."""

    name: str
    path: str
    kind: str = "string"
    wide: bool = False

    def as_json(self) -> dict[str, Any]:
        priority = {"priority": 1} if self.wide else {}
        return {"name": self.name, "type": self.kind, "jsonPath": self.path, **priority}


@dataclass(frozen=True)
class Resource:
    """One kind of the API."""

    kind: str
    plural: str
    short_name: str
    description: str
    spec: type[Model]
    status: type[Model]
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    scalable: bool = False

    @property
    def file_name(self) -> str:
        return f"{self.plural}.yaml"

    def schema(self) -> dict[str, Any]:
        """The schema of the whole object."""
        return {
            "type": "object",
            "description": self.description,
            "required": ["spec"],
            VALIDATIONS: [rule.as_json() for rule in (NAME_RULE, *self.rules)],
            "properties": {
                "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
                "kind": {"type": "string", "description": self.kind},
                "metadata": {"type": "object"},
                "spec": openapi_schema(self.spec),
                "status": openapi_schema(self.status),
            },
        }

    def definition(self) -> dict[str, Any]:
        """The CustomResourceDefinition."""
        subresources: dict[str, Any] = {"status": {}}
        if self.scalable:
            subresources["scale"] = {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            }
        version = {
            "name": VERSION,
            "served": True,
            "storage": True,
            "additionalPrinterColumns": [column.as_json() for column in self.columns],
            "subresources": subresources,
            "schema": {"openAPIV3Schema": self.schema()},
        }
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{self.plural}.{GROUP}"},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {
                    "kind": self.kind,
                    "listKind": f"{self.kind}List",
                    "plural": self.plural,
                    "singular": self.kind.lower(),
                    "shortNames": [self.short_name],
                    "categories": ["modelyard"],
                },
                "versions": [version],
            },
        }


AGE = Column("Age", ".metadata.creationTimestamp", "date")
