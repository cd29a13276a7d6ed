"""What the values of a column are converted to, and what to say of a value that cannot be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_LONGEST_KEY = 1024


class Key:
    """The kind of a column that identifies something: text or whole numbers, which stay what they are."""


Kind = type[Any]


@dataclass(frozen=True)
class Column:
    """A column that is wanted: what its values are converted to, and whether a row may lack one (None then)."""

    name: str
    kind: Kind = str
    optional: bool = False


def convert_one_by_one(column: Column, values: list[Any], bad: dict[int, str]) -> list[Any]:
    """Convert what can be; the problems of the rest go to `bad`, the first one of every row."""
    converted: list[Any] = []
    for index, value in enumerate(values):
        result = None
        if value is None or (value == "" and column.kind is not str):
            if not column.optional:
                bad.setdefault(index, f"column {column.name!r} has no value")
        else:
            try:
                result = CONVERT[column.kind](value)
            except (ValueError, TypeError, OverflowError):
                shown = json.dumps(value, default=str)
                shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
                bad.setdefault(index, f"column {column.name!r} must be {_WORDS[column.kind]}, got {shown}")
        converted.append(result)
    return converted


def _text_value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    raise TypeError


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and not value.is_integer():
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


_TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False, "yes": True, "no": False}


def _truth(value: Any) -> bool:
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    if str(value).lower() not in _TRUTH:
        raise ValueError
    return _TRUTH[str(value).lower()]


def _key(value: Any) -> str | int:
    if isinstance(value, str):
        if len(value) > _LONGEST_KEY:
            raise ValueError
        return value
    return _integer(value)


def _exactly(kind: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if not isinstance(value, kind):
            raise TypeError
        return value

    return convert


CONVERT: dict[Kind, Callable[[Any], Any]] = {
    str: _text_value,
    int: _integer,
    float: _number,
    bool: _truth,
    Key: _key,
    list: _exactly(list),
    bytes: _exactly(bytes),
    object: lambda value: value,
}
_WORDS: dict[Kind, str] = {
    str: "text",
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    Key: f"a text of at most {_LONGEST_KEY} characters or a whole number",
    list: "a list",
    bytes: "bytes",
    object: "a value",
}
