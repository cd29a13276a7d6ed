"""From an object of the API to its typed spec, or to every issue that it has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from modelyard_operator.issues import unsupported, validation_issues, without
from modelyard_operator.schema import InvalidSpec, Issue, Model, Rule

Spec = TypeVar("Spec", bound=Model)

NAME_PATTERN = r"[a-z]([-a-z0-9]*[a-z0-9])?"
NAME_LENGTH = 52
"""Pods, a Service and DNS names are made from the name: `-999-99999` or `-<10 digits of a revision>` must still fit."""
NAME_MESSAGE = (
    f"at most {NAME_LENGTH} lower-case letters, digits and '-', beginning with a letter and not ending in '-':"
    " pods, a Service and DNS names are made from it"
)
NAME_RULE = Rule(
    f"self.metadata.name.size() <= {NAME_LENGTH} && self.metadata.name.matches(r'^{NAME_PATTERN}$')",
    f"metadata.name must be {NAME_MESSAGE}",
)


def parse_object(body: Mapping[str, Any], model: type[Spec], checks: Callable[[Spec], Iterable[Issue]]) -> Spec:
    """The typed spec of an object. Raises InvalidSpec with all issues at once.

    Where the structure is wrong, the wrong fields are left out and the rest is checked all the same; what the
    checks then say about parents and children of those fields is left out too, because it may be a consequence.
    """
    issues = _name_issues(str(body.get("metadata", {}).get("name", "")))
    raw = body.get("spec")
    if not isinstance(raw, Mapping):
        raise InvalidSpec([*issues, Issue("spec", "required; add it")])
    spec: Spec | None = None
    try:
        spec = model.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError as error:
        issues += validation_issues(error, model, "spec")
        spec = _validated_rest(raw, model, error)
    if spec is not None:
        structural = [issue.field for issue in issues]
        found = [*unsupported(spec, "spec"), *checks(spec)]
        issues += [issue for issue in found if not any(_related(issue.field, field) for field in structural)]
    if issues or spec is None:
        raise InvalidSpec(issues)
    return spec


def _name_issues(name: str) -> list[Issue]:
    if not name or (len(name) <= NAME_LENGTH and re.fullmatch(NAME_PATTERN, name)):
        return []
    return [Issue("metadata.name", f"must be {NAME_MESSAGE}")]


def _validated_rest(raw: Mapping[str, Any], model: type[Spec], error: ValidationError) -> Spec | None:
    locations = [found["loc"] for found in error.errors(include_url=False, include_input=False) if found["loc"]]
    try:
        return model.model_validate(without(raw, locations), by_alias=True, by_name=False)
    except ValidationError:
        return None


def _related(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return long == short or (long.startswith(short) and long[len(short)] in ".[")
