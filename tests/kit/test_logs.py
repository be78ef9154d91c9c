"""Each log record is one line of JSON that carries the id of its request."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from trillium.rpc.call import open_call
from trillium.server.logs import REQUEST_ID, JsonFormatter


def line_of(
    message: str, *arguments: object, extra: Mapping[str, object] | None = None, **facts: Any
) -> dict[str, Any]:
    record = logging.getLogger("toy").makeRecord(
        "toy", logging.INFO, "toy.py", 1, message, arguments, facts.get("exc_info"), extra=extra
    )
    text = JsonFormatter("predictor").format(record)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_line_tells_time_level_service_logger_and_message() -> None:
    line = line_of("%d rows", 3)
    assert line.pop("time").endswith("+00:00")
    assert line == {"level": "INFO", "service": "predictor", "logger": "toy", "message": "3 rows"}


def test_extra_facts_stand_beside_the_message_whatever_they_are() -> None:
    line = line_of("x", extra={"address": "a:1", "odd": {1}, "number": 2})
    assert (line["address"], line["odd"], line["number"]) == ("a:1", "{1}", 2)


def test_line_break_and_quotes_cannot_forge_a_line() -> None:
    forged = 'x\n{"level": "ERROR"}\r\x00\u2028'
    assert line_of(forged)["message"] == forged


def test_stack_is_in_the_line() -> None:
    try:
        raise ValueError("inside")
    except ValueError as error:
        line = line_of("x", exc_info=(type(error), error, error.__traceback__))
    assert line["stack"].endswith("ValueError: inside")


async def test_request_id_follows_into_tasks_and_not_out_of_them() -> None:
    async def inside() -> str:
        REQUEST_ID.set("flower-1")
        return await asyncio.create_task(deeper())

    async def deeper() -> str:
        return str(line_of("x")["request_id"])

    assert await asyncio.create_task(inside()) == "flower-1"
    assert "request_id" not in line_of("x")


@pytest.mark.parametrize("hostile", ["", "a\nb", "a\x00", "\u2028", "x" * 129, "\ud800"])
def test_hostile_request_id_is_replaced(hostile: str) -> None:
    call = open_call("/a/B", {"x-request-id": hostile}, 1.0, "peer")
    assert call.request_id
    assert call.request_id != hostile
    assert not call.traced


def test_time_left_is_never_negative() -> None:
    call = open_call("/a/B", {"x-request-id": "mine"}, 10.0, "peer")
    assert (call.request_id, call.traced) == ("mine", True)
    assert (call.remaining_s(4.0), call.remaining_s(11.0)) == (6.0, 0.0)
