"""Entities in sequences of tags, as conlleval and seqeval find them (its default mode). Pure.

Tags are `O`, or B (begins), I (inside), E or L (ends), S or U (alone) with a type: `B-person`. An inside tag without a
beginning begins an entity too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

Entity = tuple[str, int, int]  # type, first and last place
_SAME = {"L": "E", "U": "S"}


def parts_of(tag: str) -> tuple[str, str] | None:
    """("B", "person") of "B-person", ("O", "") of "O", None of what is no tag."""
    prefix, dash, kind = tag.partition("-")
    if tag == "O":
        return "O", ""
    prefix = _SAME.get(prefix, prefix)
    return (prefix, kind) if dash and kind and prefix in ("B", "I", "E", "S") else None


def entities(tags: Sequence[str]) -> Iterator[Entity]:
    """The entities of valid tags, in their order."""
    begin, before = 0, ("O", "")
    for place, tag in enumerate([*tags, "O"]):
        now = parts_of(tag) or ("O", "")
        if before[0] != "O" and (before[0] in "ES" or now[0] in "BSO" or now[1] != before[1]):
            yield before[1], begin, place - 1
        if now[0] in ("B", "S") or (now[0] != "O" and (before[0] in ("E", "S", "O") or now[1] != before[1])):
            begin = place
        before = now


def as_bio(tags: Sequence[str]) -> list[str]:
    """The same entities with B, I and O alone."""
    plain = ["O"] * len(tags)
    for kind, first, last in entities(tags):
        plain[first : last + 1] = [f"B-{kind}"] + [f"I-{kind}"] * (last - first)
    return plain
