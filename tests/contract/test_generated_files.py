"""What is generated from the models is in the repository as the models are now, and small enough for everybody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard_operator.crds import RESOURCES, generated_files
from modelyard_operator.openapi import openapi_schema
from modelyard_operator.resources import Resource
from modelyard_operator.training.trainer_spec import SUPPORTED_BUILTINS
from modelyard_workloads.config import schema as parameter_schema
from modelyard_workloads.parameters import PARAMETERS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(generated_files()))
def test_a_generated_file_is_as_the_models_are(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generated_files()[name], "run `make generate`"


@pytest.mark.parametrize("task", sorted(PARAMETERS))
def test_a_trainers_published_schema_is_as_its_parameters_are(task: str) -> None:
    published = ROOT / "operator" / "modelyard_operator" / "training" / "schemas" / f"{task}.json"
    assert json.loads(published.read_text(encoding="utf-8")) == parameter_schema(task), "run `make generate`"


def test_every_supported_trainer_publishes_a_schema() -> None:
    assert set(SUPPORTED_BUILTINS) == set(PARAMETERS)


@pytest.mark.parametrize("name", sorted(name for name in generated_files() if name.endswith(".yaml")))
def test_a_definition_is_small_enough_for_plain_kubectl_apply(name: str) -> None:
    content = generated_files()[name]
    assert len(content.encode()) < 100_000
    # kubectl keeps the object as JSON in an annotation, and annotations end at 262,144 bytes
    assert len(json.dumps(yaml.safe_load(content))) < 131_072


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.kind)
def test_every_field_is_described_and_no_field_speaks_of_a_namespace(resource: Resource) -> None:
    for part in (resource.spec, resource.status):
        for path, field in fields_of(part.__name__, openapi_schema(part)):
            assert field.get("description"), f"{path} has no description"
            assert "namespace" not in path.lower(), path


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda r: r.kind)
def test_a_schema_is_structural(resource: Resource) -> None:
    """Every node has one type, or is an integer or string; no references, no titles, no unions, no type null."""
    for path, field in fields_of("", openapi_schema(resource.spec)):
        if field.get("x-kubernetes-int-or-string"):
            assert "type" not in field, path
        else:
            assert isinstance(field["type"], str) and field["type"] != "null", path
        assert not {"$ref", "$defs", "title", "allOf", "oneOf", "const"} & set(field), path
        assert isinstance(field.get("exclusiveMinimum", False), bool), path
        assert not ("additionalProperties" in field and "properties" in field), path


def fields_of(path: str, schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        found.append((here, field))
        found += fields_of(here, field)
        found += fields_of(f"{here}[]", field.get("items", {}))
    return found
