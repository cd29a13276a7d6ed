"""What docs/serving/openai.md tells people to type works as it stands there."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import language
from servers.inprocess import Running, configure, running

PAGE = (Path(__file__).parents[4] / "docs/serving/openai.md").read_text()
ADDRESS = "http://127.0.0.1:8080"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    config = configure(model={"name": "gpt", "path": "/nowhere"})
    with running(language.runtime(language.model()), config) as found:
        yield found


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return [str(block) for block in found]


def test_the_python_runs(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("python"):
        exec(compile(block.replace(ADDRESS, f"http://127.0.0.1:{server.port}"), "openai.md", "exec"), {})  # noqa: S102
    assert "CompletionUsage(completion_tokens=24" in capsys.readouterr().out


def test_the_curl_commands_are_answered(server: Running) -> None:
    for command in "\n".join(blocks("console")).split("\n\n"):
        program, url, *rest = shlex.split(command)
        assert program == "curl"
        reply = server.call("POST", url.removeprefix(ADDRESS), rest[rest.index("-d") + 1].encode())
        assert reply.status == 200, reply.body
        assert "text" in json.dumps(reply.json())
