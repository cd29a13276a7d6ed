"""Tests that mostly wait run side by side, in threads, from the start of the run on; all others run meanwhile.

A pytest item marked `side_by_side` only waits for the outcome of its function. The marker's `seconds` is how long it
takes: the longest begin first. Those whose pods or operators compute for much of that time are marked `busy` as well:
few of them run at once, since a dozen that start together on two cores keep each other from every deadline and end no
sooner. Such a test takes the session's `laboratory` and its own parameters, nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest

WAITING_THREADS = 12
BUSY_THREADS = 2
TIMEOUT_SECONDS = 900

_running = pytest.StashKey[dict[str, "Future[float]"]]()


class SideBySide:
    """The pytest plugin."""

    def pytest_configure(self, config: pytest.Config) -> None:
        described = "side_by_side(seconds, busy=False): runs in a thread beside the others so marked"
        config.addinivalue_line("markers", described)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Those that are only waited for come last."""
        items.sort(key=_is_marked)

    def begin(self, session: pytest.Session, laboratory: Any) -> None:
        """Start all that are marked."""
        marked = [item for item in session.items if isinstance(item, pytest.Function) and _is_marked(item)]
        for item in marked:
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))
        waiting, busy = (ThreadPoolExecutor(n, thread_name_prefix="test") for n in (WAITING_THREADS, BUSY_THREADS))
        session.config.stash[_running] = {
            item.nodeid: (busy if _marks(item).get("busy") else waiting).submit(_run, item, laboratory)
            for item in sorted(marked, key=_seconds, reverse=True)
        }

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        if not _is_marked(pyfuncitem):
            return None
        seconds = pyfuncitem.config.stash[_running][pyfuncitem.nodeid].result()
        pyfuncitem.user_properties.append(("seconds", round(seconds, 1)))
        return True

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for future in session.config.stash.get(_running, {}).values():
            future.cancel()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """What each really took: pytest itself shows how long it was waited for."""
        reports = [r for name in ("passed", "failed") for r in terminalreporter.stats.get(name, ()) if r.when == "call"]
        taken = sorted(((dict(r.user_properties).get("seconds", 0.0), r.nodeid) for r in reports), reverse=True)
        for seconds, nodeid in [t for t in taken if t[0]][:12]:
            terminalreporter.write_line(f"{seconds:6.1f} s  {nodeid}")


def _is_marked(item: pytest.Item) -> bool:
    return item.get_closest_marker("side_by_side") is not None


def _marks(item: pytest.Function) -> Mapping[str, Any]:
    marker = item.get_closest_marker("side_by_side")
    return marker.kwargs if marker else {}


def _seconds(item: pytest.Function) -> float:
    return float(_marks(item).get("seconds", 10))


def _run(item: pytest.Function, laboratory: Any) -> float:
    started = monotonic()
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    item.obj(laboratory=laboratory, **parameters)
    return monotonic() - started
