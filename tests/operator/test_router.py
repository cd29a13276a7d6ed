"""The router on real sockets: bodies, shares, holding, retries, drain, and what it refuses."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from modelyard_operator.router import __main__ as main
from modelyard_operator.router import patience, proxy
from modelyard_operator.router.config import Backend, InvalidConfig, parse_config
from modelyard_operator.router.table import Shares
from ports import free_port
from routing import answering, backend, router, server, until


async def test_bodies_of_all_kinds_pass_through() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), headers={"x-query": request.query_string})

    async with server(echo) as port, router(backend("a", port)) as client:
        for size in (0, 1, 65_536, 65_537, 3_000_000):
            data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)

            async def pieces(data: bytes = data) -> Any:
                for start in range(0, len(data), 100_000):
                    yield data[start : start + 100_000]

            for body in (data, pieces()):
                async with client.session.post(client.url + "/a?b=c", data=body) as response:
                    assert response.status == 200
                    assert response.headers["x-query"] == "b=c"
                    assert await response.read() == data
        assert client.router.counts.status()["revisions"]["a"]["requests"] == 10


async def test_a_stream_arrives_while_it_is_made() -> None:
    more = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        await more.wait()
        await response.write(b"data: 2\n\n")
        return response

    async with (
        server(stream) as port,
        router(backend("a", port)) as client,
        client.session.post(client.url + "/v1/completions") as response,
    ):
        assert await response.content.readuntil(b"\n\n") == b"data: 1\n\n"
        more.set()
        assert await response.read() == b"data: 2\n\n"


async def test_answers_without_a_body_and_a_client_that_asks_first() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(status=204 if request.method == "DELETE" else 200, body=await request.read() or None)

    async with server(handle) as port, router(backend("a", port)) as client:
        for method in ("HEAD", "DELETE", "GET"):
            async with client.session.request(method, client.url + "/x") as response:
                assert response.status == (204 if method == "DELETE" else 200)
        async with client.session.post(client.url, data=b"later", expect100=True) as response:
            assert await response.read() == b"later"


def shares(*percents: int) -> Shares:
    return Shares([Backend(revision=str(i), host="h", percent=p) for i, p in enumerate(percents)])


@pytest.mark.parametrize("percents", [(90, 10), (50, 50), (99, 1), (67, 33), (100, 0)])
def test_shares_hold_within_one_request_at_any_time(percents: tuple[int, int]) -> None:
    order, had = shares(*percents), [0, 0]
    for count in range(1, 5001):
        had[int(order.next()[0].revision)] += 1
        for index, percent in enumerate(percents):
            assert abs(had[index] - count * percent / 100) <= 1


async def test_requests_are_divided_as_the_table_says() -> None:
    async with (
        server(answering("old")) as one,
        server(answering("new")) as two,
        router(backend("old", one, 80), backend("new", two, 20)) as client,
    ):
        answers: Counter[str] = Counter()

        async def ask(count: int) -> None:
            for _ in range(count):
                answers[(await client.post())[1]["model_version"]] += 1

        await asyncio.gather(*(ask(20) for _ in range(10)))
        assert answers == {"old": 160, "new": 40}


async def test_a_hundred_clients_wait_for_a_server_that_is_not_there_yet() -> None:
    port = free_port()
    async with router(backend("a", port)) as client:
        asked = [asyncio.create_task(client.post(b"x" * 200_000)) for _ in range(100)]
        await until(lambda: client.router.counts.held == 100)
        async with server(answering("a"), port):
            answers = await asyncio.gather(*asked)
            assert answers == [(200, {"model_version": "a", "length": 200_000})] * 100
        status = client.router.counts.status()
        assert (status["held"], status["inFlight"], status["revisions"]["a"]["errors"]) == (0, 0, 0)


async def test_no_more_wait_than_may_and_who_goes_is_not_counted() -> None:
    async with router(backend("a", free_port()), maxHeld=2) as client:
        asked = [asyncio.create_task(client.post()) for _ in range(2)]
        await until(lambda: client.router.counts.held == 2)
        async with client.session.post(client.url, data=b"{}") as response:
            assert (response.status, response.headers["retry-after"]) == (503, "5")
        for task in asked:
            task.cancel()
        await until(lambda: client.router.counts.held == 0)


async def test_who_waits_too_long_is_told() -> None:
    async with router(backend("a", free_port()), holdSeconds=0.05) as client:
        assert (await client.post())[0] == 504


async def test_a_revision_that_takes_no_connections_costs_no_client_anything() -> None:
    async with (
        server(answering("old")) as port,
        router(backend("old", port, 50), backend("new", free_port(), 50)) as client,
    ):
        answers = await asyncio.gather(*(client.post() for _ in range(20)))
        assert {(code, answer["model_version"]) for code, answer in answers} == {(200, "old")}
        counted = client.router.counts.status()["revisions"]["new"]
        assert (counted["requests"], counted["errors"]) == (10, 10)


async def test_a_request_whose_server_goes_away_is_sent_again() -> None:
    killed = 0

    async def handle(request: web.Request) -> web.Response:
        nonlocal killed
        await request.read()
        if request.path == "/kill" and not killed:
            killed += 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"alive": True})

    async with server(handle) as port, router(backend("a", port)) as client:
        assert await client.post(path="/") == (200, {"alive": True})
        assert await client.post(path="/kill") == (200, {"alive": True})
        assert killed == 1


async def test_an_answer_that_breaks_off_breaks_off_for_the_client_too() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with server(handle) as port, router(backend("a", port)) as client:
        async with client.session.get(client.url) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
        await until(lambda: client.router.counts.status()["revisions"]["a"]["errors"] == 1)


async def test_a_client_that_leaves_in_the_middle_of_a_stream_is_no_failure_of_the_revision() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 1000)
            await asyncio.sleep(0.001)

    async with server(endless) as port, router(backend("a", port)) as client:
        async with client.session.get(client.url) as response:
            await response.content.readexactly(5000)
            response.close()
        await until(lambda: client.router.counts.in_flight == 0, 120)
        counted = client.router.counts.status()["revisions"].get("a", {"errors": 0})
        assert counted["errors"] == 0


async def test_a_server_that_does_not_answer_in_time_is_told_by_the_router(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(proxy, "ANSWER_SECONDS", 0.0)
    go = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await request.read()
        await go.wait()
        return web.json_response({})

    async with server(slow) as port, router(backend("a", port), timeoutSeconds=0.1) as client:
        async with client.session.post(client.url, data=b"{}") as response:
            assert response.status == 504
            assert "in time" in (await response.json())["error"]
        go.set()
        assert (await client.post())[0] == 200


async def test_what_is_about_one_connection_alone_is_not_passed_on() -> None:
    async def tell(request: web.Request) -> web.Response:
        return web.json_response(sorted(name.lower() for name in request.headers))

    async with server(tell) as port, router(backend("a", port)) as client:
        dropped = {"Connection": "keep-alive, X-Mine", "X-Mine": "1", "TE": "trailers", "Keep-Alive": "timeout=5"}
        async with client.session.get(client.url, headers={**dropped, "X-Kept": "1"}) as response:
            names = await response.json()
        assert "x-kept" in names
        assert not {"x-mine", "te", "keep-alive"} & set(names), names


BAD = {
    b"GET / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc": b"400",
    b"POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd": b"400",
    b"POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\nabc": b"400",
    b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n": b"501",
    b"POST / HTTP/1.1\r\nBad Header: x\r\n\r\n": b"400",
    b"POST / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n": b"400",
    b"GET / HTTP/2.0\r\n\r\n": b"505",
    b"nonsense\r\n\r\n": b"400",
    b"GET /\nX:y HTTP/1.1\r\n\r\n": b"400",
    b"GET / HTTP/1.1\r\nX: y\nContent-Length: 3\r\n\r\nabc": b"400",
    b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n": b"431",
}


@pytest.mark.parametrize("data", BAD, ids=range(len(BAD)))
async def test_what_could_be_read_in_two_ways_is_refused(data: bytes) -> None:
    async with server(answering("a")) as port, router(backend("a", port)) as client:
        answer = await client.raw(data)
        assert answer.startswith(b"HTTP/1.1 " + BAD[data]), answer[:80]
        assert b'{"error"' in answer


async def test_a_client_that_goes_takes_its_request_with_it() -> None:
    gone = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await request.read()
        while request.transport is not None and not request.transport.is_closing():
            await asyncio.sleep(0.01)
        gone.set()
        return web.Response()

    async with server(slow) as port, router(backend("a", port)) as client:
        asked = asyncio.create_task(client.post())
        await until(lambda: client.router.counts.in_flight == 1)
        asked.cancel()
        async with asyncio.timeout(60):
            await gone.wait()


async def test_a_drain_answers_everything_and_tells_clients_to_go() -> None:
    go = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await request.read()
        await go.wait()
        return web.json_response({})

    async with server(slow) as port, router(backend("a", port)) as client:
        asked = asyncio.create_task(client.session.post(client.url))
        await until(lambda: client.router.counts.in_flight == 1)
        client.router.proxy.draining = True
        go.set()
        response = await asked
        assert (response.status, response.headers["connection"]) == (200, "close")
        async with client.session.get(f"http://127.0.0.1:{client.router.admin_port}/readyz") as ready:
            assert ready.status == 503


async def test_a_drain_waits_for_clients_that_are_connected_and_ask_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(main, "IDLE_SECONDS", 60.0)
    async with server(answering("a")) as port, router(backend("a", port), drainSeconds=60) as client:
        await client.post()
        assert client.router.proxy.connections == 1
        drain = asyncio.create_task(client.router.drain())
        await asyncio.sleep(0.5)
        assert not drain.done(), "on the connection that is open a request may be coming"
        async with client.session.post(client.url, data=b"{}") as response:
            assert (response.status, response.headers["connection"]) == (200, "close")
        async with asyncio.timeout(30):
            await drain


async def test_the_admin_port_tells_status_and_metrics() -> None:
    async with server(answering("a")) as port, router(backend("a", port), table="t1") as client:
        await client.post()
        admin = f"http://127.0.0.1:{client.router.admin_port}"
        async with client.session.get(f"{admin}/status") as response:
            status = await response.json()
        assert (status["table"], status["revisions"]["a"]["requests"]) == ("t1", 1)
        async with client.session.get(f"{admin}/metrics") as response:
            assert 'modelyard_router_requests_total{code="200",revision="a"} 1.0' in await response.text()


async def test_connections_for_grpc_pass_byte_for_byte_and_wait_for_a_server() -> None:
    port = free_port()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data.upper())
        writer.close()

    async with router(backend("a", 1) | {"grpcPort": port}, grpcPort=0) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.router.grpc_port)
        writer.write(b"call")
        await until(lambda: client.router.counts.held == 1)
        server_ = await asyncio.start_server(echo, "127.0.0.1", port)
        assert await reader.readexactly(4) == b"CALL"
        assert client.router.counts.in_flight == 0, "an idle connection keeps no server alive"
        writer.write_eof()
        assert await reader.read() == b""
        server_.close()


def test_a_bad_configuration_names_every_field() -> None:
    with pytest.raises(InvalidConfig, match=r"backends: .*port"):
        parse_config('{"backends": [], "port": -1}')
    with pytest.raises(InvalidConfig, match="not set"):
        parse_config("")
