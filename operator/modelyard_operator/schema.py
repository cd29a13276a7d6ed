"""The base of every spec model, and the markers that say in one place what the CRD and the operator both enforce.

One pydantic model is the source of a field's name, type, default, description (the string under the attribute), its
CEL rules in the CRD, and of the same check in the operator. `openapi.py` turns the models into CRD schemas,
`issues.py` turns pydantic's errors into issues that name the field and say what to write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from modelyard_operator import quantity

VALIDATIONS = "x-kubernetes-validations"


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong with an object: the field as users write it, and what to write instead."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class InvalidSpec(Exception):
    """A spec that can't be acted upon, with every issue that was found."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__("; ".join(map(str, issues)))
        self.issues = list(issues)


class Model(BaseModel):
    """A frozen object of the API: camelCase outside, snake_case inside; unknown fields and conversions are errors."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
    )

    def asked_for(self) -> list[str]:
        """The fields, as they are written, that have another value than their default; null asks for nothing."""
        return [
            info.alias or name
            for name, info in type(self).model_fields.items()
            if getattr(self, name) not in (None, info.get_default(call_default_factory=True))
        ]


@dataclass(frozen=True)
class Rule:
    """A CEL rule of the CRD. `field_path` points at a child field, for rules that stand on an ancestor."""

    rule: str
    message: str
    field_path: str = ""

    def as_json(self) -> dict[str, str]:
        path = {"fieldPath": self.field_path} if self.field_path else {}
        return {"rule": self.rule, "message": self.message, **path}


def cel(*rules: Rule) -> dict[str, Any]:
    """`json_schema_extra` that carries CEL rules; the operator's own check of the same stands in `checks.py`."""
    return {VALIDATIONS: [rule.as_json() for rule in rules]}


def has_text(path: str) -> str:
    """CEL: the string field is there and not empty, an empty one meaning the same as an absent one."""
    owner, _, name = path.rpartition(".")
    return f"{owner}.?{name}.orValue('') != ''"


@dataclass(frozen=True)
class Matches:
    """A string that matches a regular expression (the common part of RE2 and Python), with a message for people."""

    pattern: str
    message: str
    max_length: int = 253

    def check(self, value: str) -> str:
        if len(value) > self.max_length:
            raise ValueError(f"longer than {self.max_length} characters")
        if not re.fullmatch(self.pattern, value):
            raise ValueError(self.message)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rule = Rule(f"self.matches(r'^({self.pattern})$')", self.message)
        return {**handler(schema), "maxLength": self.max_length, VALIDATIONS: [rule.as_json()]}


@dataclass(frozen=True)
class ListMap:
    """A list whose items are told apart by some of their fields, as server-side apply merges them."""

    keys: tuple[str, ...]
    max_items: int

    def check(self, items: list[Any]) -> list[Any]:
        if len(items) > self.max_items:
            raise ValueError(f"more than {self.max_items} items")
        seen: set[tuple[Any, ...]] = set()
        for item in items:
            key = tuple(getattr(item, _attribute(type(item), name)) for name in self.keys)
            if key in seen:
                raise ValueError(f"duplicate {', '.join(self.keys)} {', '.join(map(repr, key))}; name each once")
            seen.add(key)
        return items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        kind = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(self.keys)}
        return {**handler(schema), "maxItems": self.max_items, **kind}


def _attribute(model: type[BaseModel], alias: str) -> str:
    return next(name for name, field in model.model_fields.items() if field.alias == alias)


@dataclass(frozen=True)
class MapKeys:
    """A map of at most `max_items` entries, each key passing a CEL condition on `k` and the same check in Python."""

    condition: str
    accepts: Callable[[str], bool]
    message: str
    max_items: int = 64

    def check(self, value: dict[str, Any]) -> dict[str, Any]:
        if len(value) > self.max_items:
            raise ValueError(f"more than {self.max_items} entries")
        if bad := [key for key in value if not self.accepts(key)]:
            raise ValueError(f"{', '.join(map(repr, bad))}: {self.message}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        rule = Rule(f"self.all(k, {self.condition})", self.message)
        return {**handler(schema), "maxProperties": self.max_items, VALIDATIONS: [rule.as_json()]}


@dataclass(frozen=True)
class Supported:
    """A field of which only some values work in this version; the others are refused by the operator."""

    values: tuple[Any, ...]
    otherwise: str = "`{value}` is not supported yet; write {choices}"

    def refusal(self, value: Any) -> str:
        """What is said of another value."""
        return self.otherwise.format(value=value, choices=" or ".join(str(v) for v in self.values if v))


def _quantity_text(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not re.fullmatch(quantity.PATTERN, value):
        raise ValueError('expected a quantity such as 500m, 2, 4Gi or "1.5"')
    return value


def int_or_string(pattern: str) -> dict[str, Any]:
    """The one union that a structural schema may hold."""
    return {
        "x-kubernetes-int-or-string": True,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": f"^({pattern})$",
        "maxLength": 32,
    }


Quantity = Annotated[str, BeforeValidator(_quantity_text), WithJsonSchema(int_or_string(quantity.PATTERN))]
"""A Kubernetes quantity as text; `quantity.amount` gives the number."""


def _share_or_quantity(value: Any) -> Any:
    if isinstance(value, str) and (found := re.fullmatch(r"([0-9]{1,3})%", value)):
        if int(found[1]) > 100:
            raise ValueError("a share of the memory limit is at most 100%")
        return value
    try:
        return _quantity_text(value)
    except ValueError:
        raise ValueError("expected a share of the memory limit such as 50%, a quantity such as 8Gi, or 0") from None


ShareOrQuantity = Annotated[
    str,
    BeforeValidator(_share_or_quantity),
    WithJsonSchema(int_or_string(rf"(100|[1-9]?[0-9])%|{quantity.UNSIGNED}")),
]
"""`50%`, or a quantity."""


def _auto_or_count(value: Any) -> Any:
    count = int(value) if isinstance(value, str) and re.fullmatch(r"[1-9][0-9]{0,3}", value) else value
    if value == "auto" or (isinstance(count, int) and not isinstance(count, bool) and count >= 1):
        return count
    raise ValueError("expected auto or a number of at least 1")


AutoOrCount = Annotated[
    Literal["auto"] | int,
    BeforeValidator(_auto_or_count),
    WithJsonSchema(int_or_string(r"auto|[1-9][0-9]{0,3}")),
]
"""`auto`, or a count of at least 1."""

Time = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""RFC 3339."""

FreeForm = Annotated[dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})]
"""An object whose fields another schema describes."""
