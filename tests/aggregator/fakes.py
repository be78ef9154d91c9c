"""A predictor that speaks the real wire and misbehaves as told.

It scores a row with the row's own value in its column, so that an answer shows which row and which
class it belongs to. What it does with a request is a `Reaction`: the next one of `script`, or else
`otherwise`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import grpc
import numpy as np
from google.rpc import status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2

from aggregator.plans.roster import Endpoint
from tests.ports import free_ports
from trillium.errors import Code
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1 import predictor_service_pb2 as pb

Request: TypeAlias = pb.PredictStreamRequest
Reaction: TypeAlias = Callable[["FakePredictor", Request], Awaitable[bytes]]
"""What to send for a request; it may also raise EndStream or BreakStream."""

_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", -1),
)


class EndStream(Exception):
    """End the stream with OK, as when the model is replaced."""


class BreakStream(Exception):
    """End the stream with an error."""


class FakePredictor:
    """One class's predictor, without a model."""

    def __init__(
        self,
        class_label: str = "a",
        *,
        column: int = 0,
        feature_count: int = 3,
        ensemble: str = "fake",
        digest: str = "d1",
        feature_names: Sequence[str] = (),
        sample: Sequence[float] = (),
        script: Sequence[Reaction] = (),
    ) -> None:
        self.class_label = class_label
        self.column = column
        self.model: model_pb.Model | None = model_pb.Model(
            name=class_label,
            digest=digest,
            ensemble=ensemble,
            class_label=class_label,
            feature_count=feature_count,
            feature_names=feature_names,
            sample=sample,
        )
        self.may_describe = asyncio.Event()
        """GetModel waits for it."""
        self.may_describe.set()
        self.script: deque[Reaction] = deque(script)
        self.otherwise: Reaction = scores
        self.heeds_withdrawals = True
        self.health_checks: int | None = None
        """How often it was asked for its health, which it has only if this is set."""
        self.requests: list[Request] = []
        """Every matrix that came."""
        self.withdrawn: list[int] = []
        self.answered_count = 0
        self.stream_count = 0
        self._streams: set[asyncio.Future[None]] = set()
        (self._port,) = free_ports(1)
        self._server: Any = None

    @property
    def endpoint(self) -> Endpoint:
        """Where it is, whenever it has been started."""
        return Endpoint(self.class_label, self.address)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def rows(self) -> list[list[float]]:
        """Every row that came, in order."""
        return [row for request in self.requests for row in matrix(request).tolist()]

    async def start(self) -> None:
        """Listen, each time at the same address."""
        self._server = aio.server(options=_OPTIONS)
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    "trillium.predictor.v1.PredictorService",
                    {
                        "PredictStream": grpc.stream_stream_rpc_method_handler(
                            self._predict_stream, Request.FromString
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "trillium.predictor.v1.ModelService",
                    {
                        "GetModel": grpc.unary_unary_rpc_method_handler(
                            self._get_model,
                            model_pb.GetModelRequest.FromString,
                            model_pb.GetModelResponse.SerializeToString,
                        )
                    },
                ),
                grpc.method_handlers_generic_handler(
                    "grpc.health.v1.Health",
                    {"Check": grpc.unary_unary_rpc_method_handler(self._check_health)},
                ),
            )
        )
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        """Go away at once; streams break."""
        await self._server.stop(None)

    def replace_model(self, model: model_pb.Model | None) -> None:
        """Have another model from now on; streams are bound to the old one and end with OK."""
        self.model = model
        for over in self._streams:
            over.set_exception(EndStream())

    async def _check_health(self, request: bytes, context: Any) -> bytes:
        if self.health_checks is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no health here")
            raise AssertionError
        self.health_checks += 1
        serving = health_pb2.HealthCheckResponse.SERVING
        return bytes(health_pb2.HealthCheckResponse(status=serving).SerializeToString())

    async def _get_model(self, request: Any, context: Any) -> model_pb.GetModelResponse:
        await self.may_describe.wait()
        if self.model is None:
            return model_pb.GetModelResponse(state=model_pb.MODEL_STATE_EMPTY)
        return model_pb.GetModelResponse(state=model_pb.MODEL_STATE_READY, model=self.model)

    async def _predict_stream(self, requests: AsyncIterator[Request], context: Any) -> None:
        self.stream_count += 1
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._streams.add(over)
        over.add_done_callback(self._streams.discard)
        working: dict[int, asyncio.Task[None]] = {}
        writing = asyncio.Lock()

        async def send(message: bytes) -> None:
            async with writing:
                await context.write(message)

        async def react(reaction: Reaction, request: Request) -> None:
            try:
                await send(await reaction(self, request))
                self.answered_count += 1
            except asyncio.CancelledError:
                if over.done() or request.request_number not in self.withdrawn:
                    raise
                await send(failure(request.request_number, Code.CANCELLED, "withdrawn"))
            except Exception as error:
                if not over.done():
                    over.set_exception(error)

        async def read() -> None:
            async for request in requests:
                number = request.request_number
                if request.WhichOneof("action") == "cancel":
                    self.withdrawn.append(number)
                    if self.heeds_withdrawals and number in working:
                        working[number].cancel()
                    continue
                self.requests.append(request)
                reaction = self.script.popleft() if self.script else self.otherwise
                working[number] = asyncio.create_task(react(reaction, request))
            await asyncio.gather(*working.values(), return_exceptions=True)

        reading = asyncio.create_task(read())
        try:
            await asyncio.wait({reading, over}, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                over.result()
        except EndStream:
            return
        except BreakStream as broken:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(broken))
        finally:
            for task in (reading, *working.values()):
                task.cancel()
            over.cancel()


def matrix(request: Request) -> np.ndarray:
    """The rows of a request."""
    flat = np.frombuffer(request.matrix.data, "<f4")
    return flat.reshape(request.matrix.row_count, request.matrix.column_count)


def success(number: int, probabilities: np.ndarray) -> bytes:
    """The message that answers `number`."""
    data = probabilities.astype("<f4").tobytes()
    return pb.PredictStreamResponse(request_number=number, probabilities=data).SerializeToString()


def failure(number: int, code: int, message: str) -> bytes:
    """The message that answers `number` with an error."""
    status = status_pb2.Status(code=code, message=message)
    return pb.PredictStreamResponse(request_number=number, error=status).SerializeToString()


async def scores(fake: FakePredictor, request: Request) -> bytes:
    """The right answer."""
    return success(request.request_number, matrix(request)[:, fake.column])


async def hangs(fake: FakePredictor, request: Request) -> bytes:
    """No answer, ever."""
    await asyncio.Event().wait()
    raise AssertionError("an event that nobody sets")


async def wrong_number(fake: FakePredictor, request: Request) -> bytes:
    return success(request.request_number + 7, matrix(request)[:, fake.column])


async def too_short(fake: FakePredictor, request: Request) -> bytes:
    return success(request.request_number, matrix(request)[1:, fake.column])


async def too_long(fake: FakePredictor, request: Request) -> bytes:
    return success(request.request_number, np.append(matrix(request)[:, fake.column], 0.5))


async def nothing_in_it(fake: FakePredictor, request: Request) -> bytes:
    """An answer that holds neither probabilities nor an error."""
    return pb.PredictStreamResponse(request_number=request.request_number).SerializeToString()


async def garbage(fake: FakePredictor, request: Request) -> bytes:
    """Bytes that are no message."""
    return b"\xff\xff\xff\xff"


async def ends(fake: FakePredictor, request: Request) -> bytes:
    raise EndStream


async def breaks(fake: FakePredictor, request: Request) -> bytes:
    raise BreakStream("the machine room is on fire")


async def nan_for_negative(fake: FakePredictor, request: Request) -> bytes:
    """NaN for each row that has a negative value in the fake's column."""
    values = matrix(request)[:, fake.column]
    return success(request.request_number, np.where(values < 0, math.nan, values))


async def fails_for_negative(fake: FakePredictor, request: Request) -> bytes:
    """An error for the whole batch if one row has a negative value in the fake's column."""
    if (matrix(request)[:, fake.column] < 0).any():
        return failure(request.request_number, Code.INTERNAL, "the model could not be run")
    return await scores(fake, request)


def fails(code: int, message: str) -> Reaction:
    """An error of that code."""

    async def reaction(fake: FakePredictor, request: Request) -> bytes:
        return failure(request.request_number, code, message)

    return reaction


def after(gate: asyncio.Event, then: Reaction = scores) -> Reaction:
    """`then`, once `gate` is open."""

    async def reaction(fake: FakePredictor, request: Request) -> bytes:
        await gate.wait()
        return await then(fake, request)

    return reaction


@asynccontextmanager
async def running(*fakes: FakePredictor) -> AsyncIterator[None]:
    """All of `fakes`, started, and stopped at the end."""
    for fake in fakes:
        await fake.start()
    try:
        yield
    finally:
        for fake in fakes:
            with suppress(asyncio.CancelledError):
                await fake.stop()
