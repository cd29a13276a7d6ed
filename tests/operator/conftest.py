"""The router's tests run on the event loop that the router has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    """See pytest-asyncio; None: asyncio's own."""
    return {"uvloop": uvloop.new_event_loop} if item.path.name.startswith("test_router") else None
