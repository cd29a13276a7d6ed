"""pydantic models to structural OpenAPI v3 schemas, as a CustomResourceDefinition wants them.

Structural means: no `$ref`, no `type: null`, no unions but int-or-string, boolean exclusive bounds, and
`additionalProperties` only for maps. A default that is a model becomes `{}`, so that the API server fills it in
from the defaults of its fields. Optional scalars may be null (`null` is how users turn a limit off); optional
objects may not, for CEL's `has()` takes a null for something.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from modelyard_operator.schema import VALIDATIONS, Model

_NO_DEFAULT: tuple[Any, ...] = (None, "", [], {})
"""Defaults that mean "absent": left out of the CRD, so that they don't clutter stored objects."""


class _Structural(GenerateJsonSchema):
    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        return inner if "$ref" in inner else {**inner, "nullable": True}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        result = super().literal_schema(schema)
        if "const" in result:
            result = {"type": "string", "enum": [result["const"]]}
        return result

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        result = dict(self.generate_inner(schema["schema"]))
        default = schema.get("default")
        if isinstance(default, Model):
            result["default"] = {}
        elif default not in _NO_DEFAULT:
            result["default"] = default
        return result

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return {**_boolean_bounds(super().int_schema(schema)), "format": "int64"}

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return _boolean_bounds(super().float_schema(schema))


def _boolean_bounds(schema: JsonSchemaValue) -> JsonSchemaValue:
    for exclusive, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in schema:
            schema = {**schema, bound: schema[exclusive], exclusive: True}
    return schema


def openapi_schema(model: type[Model]) -> dict[str, Any]:
    """The structural schema of a model."""
    schema = model.model_json_schema(by_alias=True, schema_generator=_Structural)
    return _inline(schema, schema.get("$defs", {}))


def _inline(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """A schema node with references replaced and titles dropped."""
    node = _resolved(node, defs)
    node.pop("title", None)
    node.pop("$defs", None)
    if node.get("additionalProperties") is False:
        del node["additionalProperties"]
    if "properties" in node:
        node["properties"] = {name: _inline(child, defs) for name, child in node["properties"].items()}
    for child in ("items", "additionalProperties"):
        if child in node:
            node[child] = _inline(node[child], defs)
    if node.get("default") == {} and not any("default" in child for child in node.get("properties", {}).values()):
        del node["default"]
    if "description" in node:
        node["description"] = _one_line(node["description"])
    return node


def _resolved(node: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """The node with its `$ref` merged in; what stands beside the reference wins, CEL rules of both are kept."""
    beside = dict(node)
    reference = beside.pop("$ref", None)
    if reference is None:
        return beside
    target = _resolved(defs[reference.rsplit("/", 1)[1]], defs)
    rules = [*target.get(VALIDATIONS, []), *beside.get(VALIDATIONS, [])]
    return {**target, **beside, **({VALIDATIONS: rules} if rules else {})}


def _one_line(text: str) -> str:
    """Paragraphs stay, line breaks inside them go: `kubectl explain` wraps by itself."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
