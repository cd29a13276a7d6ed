"""pydantic's errors, and fields that are not supported yet, as issues that name the field and say what to write."""

from __future__ import annotations

import difflib
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from modelyard_operator.schema import Issue, Model, Supported

Location = Sequence[int | str]

_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_TYPES: dict[type, str] = {
    bool: "a truth value",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def field_path(root: str, location: Location) -> str:
    """`spec`, ("trainer", "env", 0, "name") -> `spec.trainer.env[0].name`."""
    path = root
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if re.fullmatch(r"[A-Za-z_]\w*", step) else f'["{step}"]'
    return path


def validation_issues(error: ValidationError, model: type[Model], root: str) -> list[Issue]:
    """One issue for each of pydantic's errors."""
    return [Issue(field_path(root, found["loc"]), _message(found, model)) for found in error.errors(include_url=False)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a mistyped word: the nearest known one, or else all of them."""
    words = [w for w in known if w]
    lower = {w.lower(): w for w in words}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"did you mean `{lower[near[0]]}`?" if near else f"known are {', '.join(words)}"


def _message(found: ErrorDetails, model: type[Model]) -> str:
    kind, context, value = found["type"], found.get("ctx", {}), found["input"]
    if kind == "extra_forbidden":
        parent = _model_at(model, found["loc"][:-1])
        return f"unknown field; {did_you_mean(str(found['loc'][-1]), aliases(parent) if parent else [])}"
    if kind == "missing":
        return "required; add it"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {_shown(value, found['loc'])}{_quote_hint(kind, value)}"
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"must be {word} {context[key]}, got {_shown(value, found['loc'])}"
    if kind == "literal_error":
        values = re.findall(r"'([^']*)'", context["expected"])
        known = ", ".join(v for v in values if v)
        hint = did_you_mean(value, values) if isinstance(value, str) else ""
        hint = f"; {hint}" if hint.startswith("did") else ""
        return f"{_shown(value, found['loc'])} is not one of {known}{hint}"
    if kind == "too_short":
        return f"needs at least {context['min_length']} item(s)"
    if kind == "too_long":
        return f"has more than {context['max_length']} items"
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_too_long":
        return f"longer than {context['max_length']} characters"
    return found["msg"].removeprefix("Value error, ")


def _quote_hint(kind: str, value: Any) -> str:
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "; write it in quotes"
    return ""


def _shown(value: Any, location: Location) -> str:
    """The value as the user wrote it, shortened; environment variables may be secret and are never shown."""
    if "env" in location or not isinstance(value, (str, int, float, bool)):
        return _TYPES.get(type(value), type(value).__name__)
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def aliases(model: type[Model]) -> list[str]:
    """The names of a model's fields as users write them."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(model: type[Model], location: Location) -> type[Model] | None:
    """The model that describes what stands at a location, or None where no model does."""
    current: Any = model
    for step in location:
        if isinstance(current, type) and issubclass(current, Model):
            field = next((f for f in current.model_fields.values() if f.alias == step), None)
            if field is None:
                return None
            current = _bare(field.annotation)
        elif get_origin(current) in (list, dict):
            current = _bare(get_args(current)[-1])
        else:
            return None
    return current if isinstance(current, type) and issubclass(current, Model) else None


def _bare(annotation: Any) -> Any:
    """The type without `Annotated` and `| None`."""
    while True:
        if get_origin(annotation) is typing.Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, UnionType):
            rest = [a for a in get_args(annotation) if a is not type(None)]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def unsupported(value: Model, root: str) -> Iterator[Issue]:
    """Everything that was set although this version can't do it yet."""
    for name, field in type(value).model_fields.items():
        if name not in value.model_fields_set:
            continue
        item, path = getattr(value, name), f"{root}.{field.alias}"
        markers = {type(marker): marker for marker in field.metadata}
        supported = markers.get(Supported)
        if supported is not None and item not in supported.values:
            yield Issue(path, supported.refusal(item))
        else:
            yield from _unsupported_inside(item, path)


def _unsupported_inside(item: Any, path: str) -> Iterator[Issue]:
    if isinstance(item, Model):
        yield from unsupported(item, path)
    elif isinstance(item, list):
        for index, member in enumerate(item):
            yield from _unsupported_inside(member, f"{path}[{index}]")


def without(value: Any, locations: Iterable[Location]) -> Any:
    """A copy of a JSON value without what stands at the given locations."""
    by_step: dict[int | str, list[Location]] = {}
    for location in locations:
        by_step.setdefault(location[0], []).append(location[1:])

    def kept(step: int | str, item: Any) -> Any:
        inner = by_step.get(step)
        return item if inner is None else without(item, inner)

    removed = {step for step, rest in by_step.items() if any(not r for r in rest)}
    if isinstance(value, Mapping):
        return {key: kept(key, item) for key, item in value.items() if key not in removed}
    if isinstance(value, list):
        return [kept(index, item) for index, item in enumerate(value) if index not in removed]
    return value
