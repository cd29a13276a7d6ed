"""Children that the API server will not have: what it said of each, and when a parent's are tried again.

Trying again has its own back-off for each parent. Events and timers of the parent neither try sooner, which would cost
a write each, nor lengthen it; a child that is rendered otherwise than it was refused is tried at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from time import monotonic

from modelyard_operator.plan import Key, Object
from modelyard_operator.workqueue import backoff


@dataclass
class _Refused:
    """What was refused of one parent."""

    children: dict[str, tuple[str, Object]] = field(default_factory=dict)
    """`kind/name` -> the words, and the child as it was sent."""
    tries: int = 0
    again: float = 0.0
    """When they are tried again, on the clock."""
    tried: bool = False
    """Whether something was refused since the last look."""


class Refusals:
    """Of all parents."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._parents: dict[Key, _Refused] = {}

    def of(self, key: Key) -> dict[str, str]:
        """Child `kind/name` -> why it could not be written."""
        refused = self._parents.get(key)
        return {name: message for name, (message, _) in refused.children.items()} if refused is not None else {}

    def waits(self, key: Key, child: Object) -> bool:
        """Whether a child was refused just as it is, and its time has not come again."""
        refused = self._parents.get(key)
        if refused is None or self._clock() >= refused.again:
            return False
        _, sent = refused.children.get(_name(child), ("", None))
        return sent == child

    def add(self, key: Key, child: Object, message: str) -> None:
        """A child was refused."""
        refused = self._parents.setdefault(key, _Refused())
        refused.children[_name(child)], refused.tried = (message, child), True

    def drop(self, key: Key, child: Object) -> None:
        """A child is as it was rendered."""
        if key in self._parents:
            self._remove(key, {_name(child)})

    def look(self, key: Key, wanted: tuple[Object, ...], told: Mapping[str, str]) -> float | None:
        """After all children were tried: forget what is not wanted any more. Returns the seconds until the parent has
        to be looked at again: until the next try, or none at all where the status was made from something else than
        what is refused now; None where nothing is refused.
        """
        if key in self._parents:
            self._remove(key, self._parents[key].children.keys() - {_name(child) for child in wanted})
        refused, now = self._parents.get(key), self._clock()
        if refused is not None and refused.tried:
            refused.tried = False
            refused.tries += 1
            refused.again = now + backoff(refused.tries)
        if told != self.of(key):
            return 0.0
        return max(0.0, refused.again - now) if refused is not None else None

    def release(self, kind: str) -> set[Key]:
        """What was refused of a kind may be tried at once: the kind has come. Returns whose."""
        concerned = {k for k, r in self._parents.items() if any(name.startswith(f"{kind}/") for name in r.children)}
        for key in concerned:
            self._parents[key].again = 0.0
        return concerned

    def forget(self, key: Key) -> None:
        """The parent is gone."""
        self._parents.pop(key, None)

    def _remove(self, key: Key, names: Set[str]) -> None:
        children = self._parents[key].children
        for name in children.keys() & names:
            del children[name]
        if not children:
            del self._parents[key]


def _name(child: Object) -> str:
    return f"{child['kind']}/{child['metadata']['name']}"
