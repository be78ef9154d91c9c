"""The program inside HEALTHCHECK."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from tests.artifacts import two_column_tensor
from tests.predictor.serving import MODEL_SERVICE, serving
from trillium.healthcheck import check, main


async def program(*arguments: str) -> tuple[int | None, str]:
    """Exit status and output of the real program."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "trillium.healthcheck", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_a_server_that_serves_is_healthy() -> None:
    async with serving(two_column_tensor()) as served:
        address = served.predictor.address
        assert await program(address) == (0, f"{address}: SERVING\n")


async def test_a_server_without_a_model_is_not_but_its_model_service_is() -> None:
    async with serving() as served:
        address = served.predictor.address
        assert await program(address) == (1, f"{address}: NOT_SERVING\n")
        assert await program(address, "--service", MODEL_SERVICE) == (0, f"{address}: SERVING\n")


async def test_an_unknown_service_is_not_healthy() -> None:
    async with serving() as served:
        healthy, line = await check([served.predictor.address], "no.Such", 60)
    assert not healthy
    assert "NOT_FOUND" in line


async def test_of_several_addresses_one_that_serves_is_enough() -> None:
    async with serving(two_column_tensor()) as served:
        address = served.predictor.address
        assert await check(["127.0.0.1:1", address], "", 60) == (True, f"{address}: SERVING")


async def test_nobody_there_is_told_in_one_line() -> None:
    status, output = await program("127.0.0.1:1")
    assert status == 1
    assert output.startswith("127.0.0.1:1: UNAVAILABLE")
    assert len(output.splitlines()) == 1


async def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with asyncio.timeout(40):
            healthy, line = await check([address], "", 0.2)
    assert not healthy
    assert "DEADLINE_EXCEEDED" in line


async def test_a_page_that_answers_200_is_healthy_and_no_other() -> None:
    answers = iter([b"200 OK", b"503 Service Unavailable"])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n")).startswith(b"GET /health HTTP/1.1")
        writer.write(b"HTTP/1.1 " + next(answers) + b"\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health"
        assert await check([url], "", 60) == (True, f"{url}: SERVING")
        assert await check([url], "", 60) == (False, f"{url}: HTTP 503")
    assert (await check(["http://127.0.0.1:1/health"], "", 60))[0] is False


@pytest.mark.parametrize(
    "arguments", [[], ["nowhere"], ["http://nowhere/"], ["h:1", "--deadline-s", "0"]]
)
def test_a_wrong_command_line_is_told_from_an_unhealthy_server(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
