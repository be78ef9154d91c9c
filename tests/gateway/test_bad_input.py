"""Bad requests get a clear 4xx that names the field, the value and what is allowed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from gateway import protocol
from gateway.strict_json import parse
from tests.gateway.serving import SETOSA, System, gateway_before, raw_exchange
from tests.waiting import eventually
from trillium.errors import MalformedMessage

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = json.dumps({"data": [SETOSA]}).encode()


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b'{"data": [[1, 2, 3, NaN]]}', "NaN"),
        (b'{"data": [[1, 2, 3, -Infinity]]}', "-Infinity"),
        (b'{"data": [[1, 2, 3, 4]], "data": []}', "duplicate key 'data'"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"data":' * 100_000, "nested too deeply"),
        (b'{"data": [[' + b"9" * 5000 + b"]]}", "too long"),
        # Pythons differ in which character of it they name.
        (b'{"data": [[1, 2,]]}', "at line 1, column 1"),
        (b'{"data": \xff}', "not UTF-8 at byte 9"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"data": "\\ud800"}', "not a character"),
        (b'{"\\udfff": []}', "not a character"),
        ('{"data": []}'.encode("utf-16"), "not UTF-8"),
    ],
)
async def test_anything_but_json_is_refused(iris: System, raw: bytes, shown: str) -> None:
    answer = await iris.call.post("/predict", raw)
    assert (answer.status, answer.json["reason"]) == (400, "MALFORMED_MESSAGE")
    assert shown in answer.json["detail"]


@pytest.mark.parametrize(
    ("body", "field", "shown"),
    [
        ({}, "data", "is required"),
        ([], "body", "expected an object"),
        ({"data": 5}, "data", "is 5"),
        ({"data": []}, "data", "at least 1 item"),
        ({"data": [[]]}, "data[0]", "at least 1 item"),
        ({"data": [[1, 2, 3, "4"]]}, "data[0][3]", "is '4'"),
        ({"data": [[1, 2, 3, True]]}, "data[0][3]", "is true"),
        ({"data": [[1, 2, 3, None]]}, "data", "row 0, column 3 is nan; finite values only"),
        ({"data": [[1, 2, 3, {}]]}, "data[0][3]", "is an object"),
        ({"data": [[1, 2, 3, 1e39]]}, "data[0][3]", "1e+39; too large for FP32"),
        ({"data": [[1, 2, 3, 10**400]]}, "data[0][3]", "a very large number"),
        ({"data": [[1, 2, 3, 4], [1, 2, 3]]}, "data[1]", "has 3 values; the first row has 4"),
        ({"data": [[1, 2, 3]]}, "data", "the model has 4 features"),
    ],
)
async def test_a_wrong_row_is_named(iris: System, body: Any, field: str, shown: str) -> None:
    answer = await iris.call.post("/predict", body)
    assert (answer.status, answer.json["reason"]) == (400, "INVALID_REQUEST")
    assert shown in answer.fields[field]


async def test_a_number_beyond_all_floats_is_refused(iris: System) -> None:
    answer = await iris.call.post("/predict", b'{"data": [[1, 2, 3, 1e999]]}')
    assert answer.fields == {"data[0][3]": "is inf; input should be a finite number"}


async def test_every_wrong_field_is_reported_up_to_twenty(iris: System) -> None:
    answer = await iris.call.post("/predict", {"data": [["x"] * 4] * 10})
    assert len(answer.fields) == 20


async def test_a_newer_body_takes_no_key_that_it_does_not_know(iris: System) -> None:
    body = {"instances": [SETOSA], "treshold": 1}
    answer = await iris.call.post("/v1/ensembles/iris:predict", body)
    assert answer.fields == {"treshold": "is not a known field"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_another_content_type_is_refused(iris: System, content_type: str) -> None:
    headers = {"content-type": content_type}
    answer = await iris.call.post("/predict", GOOD, headers=headers)
    assert (answer.status, answer.json["reason"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"]
)
async def test_json_may_be_called_by_its_other_names(iris: System, content_type: str) -> None:
    headers = {"content-type": content_type}
    assert (await iris.call.post("/predict", GOOD, headers=headers)).status == 200


async def test_a_compressed_body_is_refused(iris: System) -> None:
    answer = await iris.call.post("/predict", GOOD, headers={"content-encoding": "gzip"})
    assert answer.status == 415


async def test_a_missing_body_and_a_needless_one_are_refused(iris: System) -> None:
    assert "body" in (await iris.call.post("/predict")).fields
    answer = await iris.call.post("/v1/runs/r1:cancel", {})
    assert answer.fields == {"body": "has 2 bytes; expected no body"}


async def test_a_body_over_the_limit_is_refused(iris: System) -> None:
    async with gateway_before(iris.aggregator, iris.controller, max_body_bytes=1024) as (_, call):
        fits = GOOD + b" " * (1024 - len(GOOD))
        assert (await call.post("/predict", fits)).status == 200
        answer = await call.post("/predict", fits + b" ")
        assert (answer.status, answer.json["reason"]) == (413, "BODY_TOO_LARGE")
        assert "1025 bytes; expected at most 1024" in answer.json["detail"]


async def test_a_body_without_a_length_is_cut_at_the_limit(iris: System) -> None:
    async with gateway_before(iris.aggregator, iris.controller, max_body_bytes=1024) as (up, _):
        head = (
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        answer = await raw_exchange(
            up.address, [head, b"400\r\n" + b" " * 1024 + b"\r\n1\r\n \r\n"]
        )
        assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_head_that_does_not_come_is_not_waited_for(
    iris: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    async with gateway_before(iris.aggregator, iris.controller) as (up, _):
        for beginning in (b"", b"GET /health HTTP/1.1\r\nhost: local"):
            assert await raw_exchange(up.address, [beginning]) == b""
        # Nor that of a second request on the same connection; the first one is answered.
        whole = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        answer = await raw_exchange(up.address, [whole + whole[:20]])
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_bodies_beyond_the_bytes_in_flight_are_turned_away(iris: System) -> None:
    most = 2 * len(GOOD)
    async with gateway_before(
        iris.aggregator, iris.controller, max_bytes_in_flight=most, default_timeout_s=60.0
    ) as (up, call):
        assert (await call.post("/predict", GOOD)).status == 200
        host, _, port = up.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"connection: close\r\ncontent-length: %d\r\n\r\n" % (most - 1) + b" " * (most - 10)
        )

        async def is_turned_away() -> bool:
            answer = await call.post("/predict", GOOD)
            return (answer.status, answer.json.get("reason")) == (429, "OVERLOADED")

        await eventually(is_turned_away)
        writer.close()
        await writer.wait_closed()

        async def is_answered() -> bool:
            return (await call.post("/predict", GOOD)).status == 200

        await eventually(is_answered)


async def test_a_body_that_does_not_come_is_not_waited_for(iris: System) -> None:
    head = (
        b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 100\r\n\r\n"
    )
    short = {"default_timeout_s": 0.05}
    async with gateway_before(iris.aggregator, iris.controller, **short) as (up, _):
        answer = await raw_exchange(up.address, [head, b'{"data"'])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"BODY_TIMEOUT" in answer


async def test_unknown_paths_methods_and_parameters_are_reported(iris: System) -> None:
    lost = await iris.call.get("/v1/nothing")
    assert (lost.status, lost.json["reason"]) == (404, "NO_SUCH_PATH")
    wrong = await iris.call.call("PUT", "/v1/deployments")
    assert (wrong.status, wrong.headers["allow"]) == (405, "GET, POST")
    many = await iris.call.get("/v1/deployments?page=1&page_size=501&states=DONE&model=a&model=b")
    assert many.status == 400
    assert set(many.fields) == {"page", "page_size", "states[0]", "model"}
    none = await iris.call.get("/metadata?verbose=1")
    assert none.fields == {"verbose": "is not a known parameter; this operation has none"}
    id = await iris.call.get("/v1/deployments/Not_An_Id")
    assert "'Not_An_Id'" in id.fields["deployment"]
    headers = {"request-timeout": "soon"}
    several = await iris.call.get("/v1/deployments/Not_An_Id?verbose=1", headers=headers)
    assert set(several.fields) == {"header request-timeout", "deployment", "verbose"}


async def test_a_page_of_another_site_may_not_change_anything(iris: System) -> None:
    foreign = {"origin": "http://elsewhere.example"}
    answer = await iris.call.post("/predict", GOOD, headers=foreign)
    assert (answer.status, answer.json["reason"]) == (403, "CROSS_ORIGIN")
    own = {"origin": iris.call.base}
    assert (await iris.call.post("/predict", GOOD, headers=own)).status == 200


async def test_more_requests_than_are_served_at_once_get_a_time_to_retry(iris: System) -> None:
    async with gateway_before(iris.aggregator, iris.controller, max_requests=1) as (up, call):
        async with call.events("/v1/deployments:watch") as events:
            assert await events.next() == ("snapshot_end", {})
            answer = await call.get("/metadata")
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
            assert answer.json["retry_after_s"] == 1.0
        await eventually(lambda: up.edge.in_flight == 0)
        assert (await call.get("/metadata")).status == 200


async def test_a_service_that_is_away_is_named(iris: System, tmp_path: Path) -> None:
    away = f"unix:{tmp_path / 'away'}"
    async with gateway_before(away, away) as (_, call):
        for path in ("/metadata", "/health/all", "/v1/deployments", "/v1/deployments:watch"):
            answer = await call.get(path)
            assert (answer.status, answer.json["reason"]) == (503, "UNREACHABLE")
            assert away in answer.json["detail"]
        assert (await call.get("/v2/health/ready")).status == 503
        assert (await call.get("/health")).status == 200


@pytest.mark.parametrize(
    "raw", [b"1", b"-1.5e3", b'"\xc3\xa4"', b"null", b'{"a": {"a": []}}', b'"\\ud83d\\ude00"']
)
async def test_json_is_taken_as_its_standard_has_it(raw: bytes) -> None:
    assert parse(raw) == json.loads(raw)


@pytest.mark.parametrize("raw", [b"", b"nan", b"01", b"'a'", b"{a: 1}", b"[1] 2", b"\x00"])
async def test_what_only_looks_like_json_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        parse(raw)
