"""A request for a foreign host gets nothing, and a foreign page changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.datastructures import Headers

from gateway.config import from_command_line
from gateway.hosts import Hosts
from gateway.problems import HttpError
from tests.gateway.serving import System, gateway_before, raw_exchange
from trillium.server.config import ConfigError

wire = pytest.mark.asyncio(loop_scope="module")

PATHS = (
    "/health", "/health/all", "/docs", "/docs/page.js", "/openapi.json", "/metadata", "/v2",
    "/v2/health/live", "/v1/deployments", "/v1/runs", "/v1/deployments:watch", "/nothing",
)  # fmt: skip
CHANGES = ("/v1/deployments", "/v1/deployments/a1:terminate", "/inference_router/", "/predict")


def refused(hosts: Hosts, *given: str, method: str = "GET", origin: str = "") -> int:
    """The status that a request with these headers `host` is refused with; 0 if it is not."""
    raw = [(b"host", each.encode("latin-1")) for each in given]
    raw += [(b"origin", origin.encode())] if origin else []
    try:
        hosts.check(method, Headers(raw=raw))
    except HttpError as error:
        return error.status
    return 0


@pytest.mark.parametrize(
    ("listen", "own", "foreign"),
    [
        (
            "127.0.0.1:9000",
            ["127.0.0.1:9000", "127.0.0.1", "LocalHost:9000", "localhost.", "[::1]:9000",
             "localhost:8080", "127.0.0.2", "[0:0:0:0:0:0:0:1]"],
            ["evil.example", "evil.example:9000", "localhost.evil.example",
             "127.0.0.1.evil.example",
             "10.0.0.1", "[2001:db8::1]", "", ":9000", "localhost:x", "localhost localhost",
             "2130706433", "local\xe9host", "user@localhost", "localhost/", "[::1", "[x]"],
        ),
        ("[::1]:9000", ["[::1]:9000", "localhost", "127.0.0.1"], ["evil.example", "[::2]"]),
        ("unix:/run/gateway", ["localhost"], ["evil.example"]),
        ("localhost:9000", ["localhost:9000", "127.0.0.1"], ["evil.example"]),
        (
            "0.0.0.0:9000",
            ["localhost:9000", "127.0.0.1:9000", "192.168.1.5:80", "[2001:db8::1]"],
            ["evil.example:9000", "gateway:9000", "1.2.3.4.evil.example"],
        ),
        ("[::]:9000", ["localhost:9000", "192.168.1.5"], ["evil.example"]),
        ("192.168.1.5:9000", ["192.168.1.5:9000"], ["localhost", "192.168.1.6", "evil.example"]),
        ("gateway.example:80", ["Gateway.Example."], ["localhost", "example"]),
    ],
)  # fmt: skip
def test_a_gateway_goes_by_the_names_that_it_listens_on(
    listen: str, own: list[str], foreign: list[str]
) -> None:
    hosts = Hosts(listen)
    assert {each: refused(hosts, each) for each in own} == dict.fromkeys(own, 0)
    assert {each: refused(hosts, each) for each in foreign} == dict.fromkeys(foreign, 421)


def test_further_names_are_those_that_are_set() -> None:
    given = ["--allowed-host", "Proxy.Example.", "--allowed-host", "[2001:DB8::1]"]
    config = from_command_line(given, {})
    hosts = Hosts(config.listen, config.allowed_hosts)
    assert not refused(hosts, "proxy.example:443")
    assert not refused(hosts, "[2001:db8::1]:9000")
    assert refused(hosts, "other.example") == 421
    variable = {"TRILLIUM_GATEWAY_ALLOWED_HOSTS": "gateway,proxy.example"}
    assert from_command_line([], variable).allowed_hosts == ("gateway", "proxy.example")


@pytest.mark.parametrize("name", ["proxy.example:443", "http://proxy.example", "*", "a b", "-.x/"])
def test_an_invalid_name_is_an_invalid_setting(name: str) -> None:
    with pytest.raises(ConfigError, match="without a port"):
        from_command_line([f"--allowed-host={name}"], {})


def test_a_host_is_given_once() -> None:
    hosts = Hosts("127.0.0.1:9000")
    assert refused(hosts) == 421
    assert refused(hosts, "localhost", "localhost") == 421
    assert refused(hosts, "localhost", "evil.example") == 421


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("POST", "http://localhost:9000", 0),
        ("POST", "http://localhost:8888", 403),
        ("POST", "http://evil.example", 403),
        ("POST", "null", 403),
        ("POST", "http://[", 403),
        ("DELETE", "http://evil.example", 403),
        ("OPTIONS", "http://evil.example", 403),
        ("GET", "http://localhost:8888", 0),
        ("GET", "http://evil.example", 403),
        ("GET", "null", 0),
    ],
)
def test_a_foreign_page_changes_nothing_and_reads_nothing(
    method: str, origin: str, status: int
) -> None:
    hosts = Hosts("127.0.0.1:9000")
    assert refused(hosts, "localhost:9000", method=method, origin=origin) == status


async def exchanged(system: System, lines: str, body: str = "") -> tuple[int, Any]:
    """Status and problem of an answer to a request of these lines."""
    head = f"{lines}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    raw = await raw_exchange(system.gateway.address, [head.encode(), body.encode()])
    status, _, rest = raw.partition(b"\r\n")
    head_, _, content = rest.partition(b"\r\n\r\n")
    assert b"x-request-id" in head_
    is_problem = b"application/problem+json" in head_
    return int(status.split()[1]), json.loads(content) if is_problem else None


@wire
async def test_a_foreign_host_gets_nothing_from_any_path(iris: System) -> None:
    lines = [f"GET {path}" for path in PATHS] + [f"POST {path}" for path in CHANGES]
    for line in lines:
        status, problem = await exchanged(iris, f"{line} HTTP/1.1\r\nhost: evil.example:9000")
        assert (status, problem["reason"]) == (421, "HOST_NOT_ALLOWED"), line
        assert "'evil.example:9000'" in problem["detail"]
        assert "--allowed-host" in problem["detail"]


@wire
@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("GET /health HTTP/1.1\r\nHost: LOCALHOST:1", 200),
        ("GET /health HTTP/1.0\r\nhost: localhost", 200),
        ("GET /health HTTP/1.0\r\nx-a: b", 421),
        ("GET /health HTTP/1.1\r\nhost: localhost\r\nhost: evil.example", 421),
        ("GET http://localhost/health HTTP/1.1\r\nhost: localhost", 200),
        ("GET http://localhost:9000/health HTTP/1.1\r\nhost: evil.example", 200),
        ("GET http://[::1]:9000/health HTTP/1.1\r\nhost: [::1]", 200),
        ("GET http://evil.example/health HTTP/1.1\r\nhost: localhost", 421),
        ("POST http://evil.example/predict HTTP/1.1\r\nhost: localhost", 421),
    ],
)
async def test_the_host_is_that_of_the_target_or_the_header(
    iris: System, lines: str, status: int
) -> None:
    assert (await exchanged(iris, lines))[0] == status


@wire
async def test_a_foreign_page_neither_creates_nor_terminates(iris: System) -> None:
    body = '{"deployment_id": "csrf", "model": "iris-setosa"}'
    for origin in ("http://evil.example", "null", "http://localhost:1"):
        for kind in ("application/json", "text/plain"):
            head = f"host: localhost\r\norigin: {origin}\r\ncontent-type: {kind}"
            for path in CHANGES:
                status, problem = await exchanged(iris, f"POST {path} HTTP/1.1\r\n{head}", body)
                assert (status, problem["reason"]) == (403, "CROSS_ORIGIN")
    assert (await iris.call.get("/v1/deployments")).json["deployments"] == []


@wire
async def test_a_name_that_is_set_is_served(iris: System) -> None:
    more = {"allowed_hosts": ("proxy.example",)}
    async with gateway_before(iris.aggregator, iris.controller, **more) as (_, call):
        answer = await call.get("/health", headers={"host": "proxy.example"})
        assert answer.status == 200
