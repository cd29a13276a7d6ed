"""How many random courses of a life the walks try: always the same few hundred, or with WALKS=5000 new ones."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_ASKED = os.environ.get("WALKS")

walked = settings(
    max_examples=int(_ASKED or 300),
    derandomize=_ASKED is None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
"""A decorator for the tests."""
