"""Builtin trainers' parameters against the JSON schemas that the trainers publish (`schemas/<task>.json`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from modelyard_operator.issues import did_you_mean, field_path
from modelyard_operator.schema import Issue

_SCHEMAS = Path(__file__).parent / "schemas"


@cache
def _schema(task: str) -> Any:
    return json.loads((_SCHEMAS / f"{task}.json").read_text(encoding="utf-8"))


@cache
def _validator(task: str) -> Draft202012Validator:
    return Draft202012Validator(_schema(task))


@cache
def defaults_of(task: str) -> str:
    """The values of the parameters that a user leaves out, as JSON: those that this version's trainer has."""
    fields = _schema(task)["properties"].items()
    found = {name: field["default"] for name, field in fields if "default" in field}
    return json.dumps(found, sort_keys=True, separators=(",", ":"))


def parameter_issues(task: str, parameters: Mapping[str, Any], path: str) -> Iterator[Issue]:
    """Every issue of a builtin trainer's parameters."""
    found = sorted(_validator(task).iter_errors(parameters), key=lambda e: [str(step) for step in e.absolute_path])
    wrong_type = {tuple(error.absolute_path) for error in found if error.validator == "type"}
    for error in found:
        if error.validator == "type" or tuple(error.absolute_path) not in wrong_type:
            yield from _issues(error, path)


def _issues(error: ValidationError, root: str) -> Iterator[Issue]:
    path = field_path(root, list(error.absolute_path))
    schema: Any = error.schema
    instance: Any = error.instance
    wanted: Any = error.validator_value
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = schema.get("properties", {})
        for name in sorted(set(error.instance) - set(known)):
            yield Issue(field_path(path, [name]), f"unknown field; {did_you_mean(name, known)}")
    elif error.validator == "required":
        for name in sorted(set(wanted) - set(instance)):
            yield Issue(field_path(path, [name]), "required; add it")
    elif inside := [
        e for e in error.context or [] if e.relative_path or e.validator in ("additionalProperties", "required")
    ]:
        for one in inside:  # of a section that may also be left out
            yield from _issues(one, root)
    else:
        yield Issue(path, _message(error))


def _message(error: ValidationError) -> str:
    got = json.dumps(error.instance)[:60]
    wanted: Any = error.validator_value
    match error.validator:
        case "type":
            words = wanted if isinstance(wanted, list) else [wanted]
            return f"expected {' or '.join(words)}, got {got}"
        case "enum":
            known = [str(value) for value in wanted]
            hint = did_you_mean(error.instance, known) if isinstance(error.instance, str) else ""
            return f"{got} is not one of {', '.join(known)}" + (f"; {hint}" if hint.startswith("did") else "")
        case "minimum":
            return f"must be at least {wanted}, got {got}"
        case "maximum":
            return f"must be at most {wanted}, got {got}"
        case "exclusiveMinimum":
            return f"must be more than {wanted}, got {got}"
        case "exclusiveMaximum":
            return f"must be less than {wanted}, got {got}"
        case "anyOf" | "oneOf":
            inner = [e for e in error.context or [] if not e.relative_path]
            if inner and all(e.validator == "type" for e in inner):
                return f"expected {' or '.join(str(e.validator_value) for e in inner)}, got {got}"
            return "; or ".join(dict.fromkeys(_message(e) for e in inner if e.validator != "type")) or error.message
    return error.message
