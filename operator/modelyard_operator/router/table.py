"""Who gets the next request: shares that hold exactly, for any run of requests, by smooth weighted round robin.

After n requests no revision is more than one request away from its share of n, for two revisions; nothing is random.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelyard_operator.router.config import Backend


class Shares:
    """The order of the backends, request after request."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._backends = list(backends)
        total = sum(backend.percent for backend in backends)
        self._weights = [backend.percent if total else 1 for backend in backends]
        self._total = total or len(self._backends)
        self._credit = [0] * len(self._backends)
        indices = range(len(self._backends))
        by_weight = sorted(indices, key=lambda index: -self._weights[index])
        # for each that is chosen: itself, then the others
        self._orders = [[self._backends[i] for i in (c, *(i for i in by_weight if i != c))] for c in indices]

    def next(self) -> list[Backend]:
        """The backend whose turn it is, then the others, to which a request goes where that one cannot be reached."""
        if len(self._orders) == 1:
            return self._orders[0]
        for index, weight in enumerate(self._weights):
            self._credit[index] += weight
        chosen = max(range(len(self._backends)), key=self._credit.__getitem__)
        self._credit[chosen] -= self._total
        return self._orders[chosen]
