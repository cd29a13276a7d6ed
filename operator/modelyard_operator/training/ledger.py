"""The newest complete checkpoint of a training, kept over its attempts. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from modelyard_operator.objects import parse_time
from modelyard_operator.plan import Object
from modelyard_operator.training.failure import termination_record
from modelyard_operator.training.situation import Situation

_FIELDS = ("step", "uri", "time", "sizeBytes", "saveSeconds")


def newest(situation: Situation) -> Object | None:
    """What `status.checkpoint` is to say: the newest that the current attempt told of, by its reports or at its end.

    An older one than the status knows is believed only of an attempt that began after that was saved: it has found
    the newer one damaged, or was told to begin anew. Else it is old news.
    """
    known: Object | None = situation.status.get("checkpoint")
    told = max(_told(situation), key=_time, default=None)
    if told is None:
        return known
    if known is not None and _time(told) < _time(known) and not _began_after(situation, _time(known)):
        return known
    return {name: told[name] for name in _FIELDS if name in told}


def _told(situation: Situation) -> Iterator[Mapping[str, Any]]:
    if situation.report is not None and situation.report.checkpoint:
        yield situation.report.checkpoint
    if (first := situation.gang.pods.get(0)) is not None:
        record = termination_record(first).get("checkpoint")
        if isinstance(record, dict) and _parse(record.get("time")) is not None:
            yield record


def _time(checkpoint: Mapping[str, Any]) -> float:
    moment = _parse(checkpoint.get("time"))
    return moment.timestamp() if moment else 0.0


def _began_after(situation: Situation, moment: float) -> bool:
    first = situation.gang.pods.get(0)
    created = parse_time(first["metadata"].get("creationTimestamp")) if first is not None else None
    return created is not None and created.timestamp() >= moment


def _parse(text: Any) -> datetime | None:
    """A time that a pod wrote; None where it is none."""
    try:
        return parse_time(str(text)) if text else None
    except ValueError:
        return None
