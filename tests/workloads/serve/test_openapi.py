"""The server describes itself, and answers whatever can be made from the description as it says."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from modelyard_workloads.serve.auth import OPEN_PATHS
from schemathesis import GenerationMode, checks
from servers import language
from servers.inprocess import MODEL, Running, configure, eventually, running
from servers.rows import RowModel
from starlette.routing import Route

CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
SECONDS = 20
# A few requests for each route, the same in every run; EXAMPLES=1000 is the long form, with others each time.
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))
examples = settings(
    max_examples=EXAMPLES or 8, deadline=None, derandomize=not EXAMPLES, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def rows() -> Iterator[Running]:
    with running(RowModel()) as made:
        eventually(lambda: made.plane.ready)
        yield made


@pytest.fixture(scope="module")
def writer() -> Iterator[Running]:
    with running(language.runtime(language.model())) as made:
        eventually(lambda: made.plane.ready)
        yield made


def described(made: Running) -> dict[str, Any]:
    reply = made.call("GET", "/openapi.json")
    assert reply.status == 200
    found: dict[str, Any] = orjson.loads(reply.body)
    return found


def ask_everything(made: Running, only: str, mode: GenerationMode) -> None:
    """Send what the description allows, or what it forbids, to every route below a path."""
    schema: Any = schemathesis.openapi.from_url(f"http://127.0.0.1:{made.port}/openapi.json")
    schema = schema.include(method="POST", path_regex=only)
    if not EXAMPLES:
        schema = schema.exclude(path_regex="/versions/|^/openai/")  # the same once more
    asked = 0
    for found in schema.get_all_operations():

        @examples
        @given(case=found.ok().as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=CHECKS, timeout=SECONDS)

        with contextlib.suppress(Unsatisfiable):  # of some nothing is forbidden
            send()
    assert asked > 20


def test_every_route_is_described(rows: Running) -> None:
    paths = described(rows)["paths"]
    routes = [route for route in rows.app.router.routes if isinstance(route, Route)]
    assert paths.keys() == {route.path for route in routes}
    for route in routes:
        assert {method.lower() for method in (route.methods or ())} - {"head"} <= paths[route.path].keys()
    assert paths["/v2/models/{model}/infer"]["post"]["parameters"][0]["schema"]["enum"] == [MODEL]


def test_where_keys_are_asked_for_the_description_says_so(tmp_path: Any) -> None:
    (tmp_path / "key").write_text("k")
    with running(RowModel(), configure(auth={"keysPath": str(tmp_path)})) as made:
        assert made.call("GET", "/openapi.json").status == 401
        reply = made.call("GET", "/openapi.json", headers={"x-api-key": "k"})
    for path, item in orjson.loads(reply.body)["paths"].items():
        for operation in item.values():
            assert ("401" in operation["responses"]) is ("security" in operation) is (path not in OPEN_PATHS)


@pytest.mark.parametrize("mode", GenerationMode)
def test_whatever_is_sent_is_answered_as_described(rows: Running, mode: GenerationMode) -> None:
    ask_everything(rows, "", mode)


@pytest.mark.parametrize("mode", GenerationMode)
def test_whatever_a_language_model_is_asked_is_answered_as_described(writer: Running, mode: GenerationMode) -> None:
    ask_everything(writer, "completions|generate|embeddings", mode)
