"""The tests on a real cluster: a laboratory for the whole run, and tests that wait do so side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster.laboratory import Laboratory
from cluster.side_by_side import SideBySide

_side_by_side = SideBySide()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_side_by_side, "side-by-side")


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    made = Laboratory(tmp_path_factory.mktemp("laboratory"))
    yield made
    made.close()


@pytest.fixture(scope="session", autouse=True)
def side_by_side(request: pytest.FixtureRequest, laboratory: Laboratory) -> None:
    """Begins with the first test of this folder, whichever it is."""
    _side_by_side.begin(request.session, laboratory)
