"""What both clients do when there is no answer, or none in time, or the arguments are wrong."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc import aio

from tests.client.conftest import Caller
from tests.waiting import eventually
from trillium import AsyncClient, Client, DeadlineExceeded, RemoteError, Unreachable
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.tensor.v1 import tensor_pb2

ROW = [[1.0]]
SERVICE = "trillium.aggregator.v1.AggregatorService"
NOBODY = "127.0.0.1:1"


@dataclass
class Gated:
    """Answers Predict, with the row's own value, only once it may."""

    may: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    withdrawn: int = 0
    metadata: list[dict[str, Any]] = field(default_factory=list)

    async def predict(self, request: Any, context: Any) -> Any:
        """The handler."""
        self.asked += 1
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        return pb.PredictResponse(class_labels=["x"], probabilities=request.matrix)


@asynccontextmanager
async def serving(servicer: Gated) -> AsyncIterator[str]:
    """A server that knows no method but Predict; its address."""
    server = aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.predict, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
    )
    methods = grpc.method_handlers_generic_handler(SERVICE, {"Predict": handler})
    server.add_generic_rpc_handlers((methods,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_nobody_at_the_address_is_unreachable(calling: Any) -> None:
    async with calling(NOBODY) as caller:
        with pytest.raises(Unreachable, match=f"no answer from {NOBODY}: .*refused") as raised:
            await caller("predict", ROW)
        assert raised.value.__cause__ is not None
        assert not await caller("is_serving")


async def test_a_server_that_says_nothing_is_given_up_in_time(calling: Any) -> None:
    # The kernel takes the connection, and nobody ever reads from it.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with calling(address, timeout_s=0.1) as caller:
            # gRPC may be the first to lose patience, with the connection.
            with pytest.raises((DeadlineExceeded, Unreachable), match=f"no answer from {address}"):
                await caller("classify", ROW)
            assert not await caller("is_serving")


async def test_the_time_of_a_call_wins_over_the_client_s(calling: Any) -> None:
    async with serving(Gated()) as address, calling(address, timeout_s=60) as caller:
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s"):
            await caller("predict", ROW, timeout_s=0.05)


async def test_another_server_is_told_apart(calling: Any) -> None:
    async with serving(Gated()) as address, calling(address) as caller:
        with pytest.raises(RemoteError, match=f"{address} answered UNIMPLEMENTED"):
            await caller("metadata")


async def test_the_request_id_travels(calling: Any) -> None:
    servicer = Gated()
    servicer.may.set()
    async with serving(servicer) as address, calling(address) as caller:
        await caller("predict", ROW, request_id="abc")
    assert servicer.metadata[0]["x-request-id"] == "abc"


async def test_a_stream_keeps_only_so_many_batches_in_flight(calling: Any) -> None:
    servicer, read = Gated(), 0

    def endless() -> Iterator[Any]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield [[float(number)]]

    async with serving(servicer) as address, calling(address) as caller:
        answers = caller.stream(endless(), max_in_flight=3)
        first = asyncio.ensure_future(anext(answers))
        await eventually(lambda: servicer.asked == 3)
        assert read == 3
        servicer.may.set()
        values = [(await first).probabilities[0, 0]]
        values += [(await anext(answers)).probabilities[0, 0] for _ in range(9)]
        assert values == list(range(10))
        assert read <= 10 + 3
        await answers.aclose()


async def test_a_failed_batch_withdraws_those_behind_it() -> None:
    class Refusing(Gated):
        async def predict(self, request: Any, context: Any) -> Any:
            if request.matrix.column_count == 2:
                await eventually(lambda: self.asked == 2)
                await context.abort(grpc.StatusCode.INTERNAL, "broken")
            return await super().predict(request, context)

    servicer = Refusing()
    async with serving(servicer) as address, AsyncClient(address) as client:
        with pytest.raises(RemoteError, match="broken"):
            async for _ in client.predict_stream([[[1.0, 2.0]], ROW, ROW]):
                pass
        await eventually(lambda: servicer.withdrawn == 2)


async def test_a_stream_takes_asynchronous_batches() -> None:
    async def batches() -> AsyncIterator[Any]:
        yield [[1.0]]
        yield [[2.0]]

    servicer = Gated()
    servicer.may.set()
    async with serving(servicer) as address, AsyncClient(address) as client:
        values = [each.probabilities[0, 0] async for each in client.predict_stream(batches())]
    assert values == [1, 2]


async def test_cancelling_a_task_withdraws_its_call() -> None:
    servicer = Gated()
    async with serving(servicer) as address, AsyncClient(address) as client:
        task = asyncio.create_task(client.predict(ROW))
        await eventually(lambda: servicer.asked == 1)
        task.cancel()
        await eventually(lambda: servicer.withdrawn == 1)
        assert task.cancelled()


async def test_one_client_serves_many_threads() -> None:
    servicer = Gated()
    servicer.may.set()
    async with serving(servicer) as address:
        with Client(address) as client:
            rows = [[[float(number)]] for number in range(50)]
            calls = [asyncio.to_thread(client.predict, each) for each in rows]
            answers = await asyncio.gather(*calls)
    assert [each.probabilities[0, 0] for each in answers] == list(range(50))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "zwölf"}, "request_id"),
    ],
)
async def test_options_that_make_no_sense_are_refused_at_once(
    calling: Any, options: dict[str, Any], what: str
) -> None:
    async with calling(NOBODY) as caller:
        with pytest.raises(ValueError, match=what):
            await caller("predict", ROW, **options)


async def test_a_text_is_no_list_of_classes(calling: Any) -> None:
    async with calling(NOBODY) as caller:
        with pytest.raises(TypeError, match="'setosa'"):
            await caller("predict", ROW, class_labels="setosa")


async def test_a_stream_needs_room_for_a_batch(calling: Any) -> None:
    async with calling(NOBODY) as caller:
        assert isinstance(caller, Caller)
        with pytest.raises(ValueError, match="max_in_flight"):
            await anext(caller.stream([ROW], max_in_flight=0))


@pytest.mark.parametrize("address", ["", "localhost", "localhost:port", "unix:"])
def test_an_address_must_be_one(address: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Client(address)


def test_a_matrix_of_the_wire_is_little_endian() -> None:
    matrix = tensor_pb2.Float32Matrix(row_count=1, column_count=1, data=b"\x00\x00\x80?")
    from trillium.client import wire

    answer = wire.predictions(pb.PredictResponse(class_labels=["x"], probabilities=matrix))
    assert answer.probabilities.tolist() == [[1.0]]
