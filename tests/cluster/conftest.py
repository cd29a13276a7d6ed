"""The tests on a real cluster: a laboratory for the whole run, and tests that wait do so side by side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cluster.laboratory import Laboratory
from cluster.side_by_side import SideBySide


def pytest_configure(config: pytest.Config) -> None:
    plugin = SideBySide()
    config.pluginmanager.register(plugin, "side-by-side")


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    made = Laboratory(tmp_path_factory.mktemp("laboratory"))
    yield made
    made.close()
