"""An aggregator in this process, and a caller of it with the generated stubs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aggregator.app import RunningAggregator, running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.plans.names import Resolver
from aggregator.plans.roster import Endpoint
from predictor.app import RunningPredictor, running_predictor
from predictor.config import PredictorConfig
from tests.aggregator import fakes
from tests.aggregator.fakes import FakePredictor
from tests.artifacts import reference_positive_probabilities
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.rpc.channels import link_channel
from trillium.tensor.v1 import tensor_pb2

FloatRows = npt.NDArray[np.float32]

SERVICE = "trillium.aggregator.v1.AggregatorService"
IRIS = ("setosa", "versicolor", "virginica")
CALL_S = 60.0
"""How long a call may take that is to be answered."""
_CLIENT = (("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True, slots=True)
class Aggregated:
    """An aggregator that is up, and stubs that call it."""

    aggregator: RunningAggregator
    channel: aio.Channel
    stub: Any
    health: Any

    async def predict(
        self,
        rows: npt.ArrayLike,
        *,
        timeout: float | None = CALL_S,  # noqa: ASYNC109 as gRPC names it
        metadata: Any = None,
        **fields: Any,
    ) -> pb.PredictResponse:
        """What Predict answers for a matrix of `rows`.

        Without a `timeout` the aggregator's own clock alone ends the call, at its default: then the
        answer that names who was late comes for sure, however busy the machine is.
        """
        request = pb.PredictRequest(matrix=packed(rows), **fields)
        answer: pb.PredictResponse = await self.stub.Predict(
            request, timeout=timeout, metadata=metadata
        )
        return answer

    async def scores(self, rows: npt.ArrayLike, **options: Any) -> FloatRows:
        """The probabilities [n, classes] that Predict answers for `rows`."""
        return unpacked((await self.predict(rows, **options)).probabilities)

    async def listed(self) -> list[pb.Predictor]:
        """What ListPredictors answers."""
        answer = await self.stub.ListPredictors(pb.ListPredictorsRequest(), timeout=CALL_S)
        return list(answer.predictors)

    async def ensembles(self) -> list[pb.EnsembleSummary]:
        """What ListEnsembles answers."""
        answer = await self.stub.ListEnsembles(pb.ListEnsemblesRequest(), timeout=CALL_S)
        return list(answer.ensembles)

    async def states(self) -> list[str]:
        """The states of all predictors in lower case."""
        return [state_name(each) for each in await self.listed()]

    async def states_are(self, *states: str) -> bool:
        """Whether these are the states of all predictors, in order."""
        return await self.states() == list(states)

    async def is_serving(self, service: str = "") -> bool:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self.health.Check(request, timeout=CALL_S)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_ready(self) -> None:
        """Every class has a predictor that may be asked."""
        await eventually(lambda: self.aggregator.ensembles.is_ready)

    def waiting_rows(self) -> int:
        """Rows in all queues."""
        ensembles = self.aggregator.ensembles.all()
        return sum(rows for each in ensembles for rows in each.queued_rows.values())

    async def until_idle(self) -> None:
        """Nothing is queued and no call is in flight."""
        await eventually(lambda: self.waiting_rows() == 0)
        await eventually(lambda: self.aggregator.front.in_flight == 0)


@asynccontextmanager
async def aggregating(
    *endpoints: Endpoint,
    ready: bool = True,
    resolver: Resolver | None = None,
    open_channel: Callable[[str], aio.Channel] = link_channel,
    **config: Any,
) -> AsyncIterator[Aggregated]:
    """An aggregator on a free port; `ready` waits until it can answer."""
    settings = AggregatorConfig(
        **{"predictors": endpoints, "listen": "127.0.0.1:0", "drain_s": 5.0, **config}
    )
    async with (
        running_aggregator(settings, resolver=resolver, open_channel=open_channel) as aggregator,
        aio.insecure_channel(aggregator.address, options=_CLIENT) as channel,
    ):
        served = Aggregated(
            aggregator, channel, AggregatorServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        )
        if ready:
            await served.until_ready()
        yield served


@asynccontextmanager
async def no_task_left() -> AsyncIterator[None]:
    """Whatever is started inside has ended soon after."""
    before = asyncio.all_tasks()
    yield
    # A fixture is torn down by another task than the one that set it up.
    known = before | {asyncio.current_task()}
    try:
        await eventually(lambda: not asyncio.all_tasks() - known)
    except AssertionError:
        raise AssertionError(f"tasks are left: {asyncio.all_tasks() - known}") from None


@asynccontextmanager
async def before_fakes(
    *predictors: FakePredictor, ready: bool = True, **config: Any
) -> AsyncIterator[Aggregated]:
    """An aggregator before fake predictors, all of them started."""
    async with no_task_left(), fakes.running(*predictors):
        endpoints = [each.endpoint for each in predictors]
        async with aggregating(*endpoints, ready=ready, **config) as served:
            yield served


@asynccontextmanager
async def real_predictors(*models: Path) -> AsyncIterator[list[RunningPredictor]]:
    """A real predictor for each artifact."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_predictor(PredictorConfig(listen="127.0.0.1:0", model=model, drain_s=5.0))
            )
            for model in models
        ]


@asynccontextmanager
async def whole_ensemble(
    models: Path, ensemble: str, labels: Sequence[str], **config: Any
) -> AsyncIterator[Aggregated]:
    """An aggregator before one real predictor for each class of an ensemble."""
    paths = [models / f"{ensemble}-{label}.onnx" for label in labels]
    async with no_task_left(), real_predictors(*paths) as predictors:
        endpoints = [
            Endpoint(label, each.address) for label, each in zip(labels, predictors, strict=True)
        ]
        async with aggregating(*endpoints, **config) as served:
            yield served


def reference(models: Path, ensemble: str, labels: Sequence[str], rows: FloatRows) -> FloatRows:
    """What ONNX Runtime itself answers, [n, classes]."""
    artifacts = [(models / f"{ensemble}-{label}.onnx").read_bytes() for label in labels]
    columns = [reference_positive_probabilities(each, rows, 1) for each in artifacts]
    return np.stack(columns, axis=1).astype(np.float32)


def packed(rows: npt.ArrayLike) -> tensor_pb2.Float32Matrix:
    """`rows` [n, k] as they travel."""
    array = np.asarray(rows, np.float32)
    row_count, column_count = array.shape
    return tensor_pb2.Float32Matrix(
        row_count=row_count, column_count=column_count, data=array.astype("<f4").tobytes()
    )


def instances(rows: npt.ArrayLike) -> list[pb.Instance]:
    """`rows` [n, k] written out."""
    return [pb.Instance(features=row) for row in np.asarray(rows, np.float32).tolist()]


def unpacked(matrix: tensor_pb2.Float32Matrix) -> FloatRows:
    flat = np.frombuffer(matrix.data, "<f4")
    return flat.reshape(matrix.row_count, matrix.column_count)


def state_name(predictor: pb.Predictor) -> str:
    name: str = pb.PredictorState.Name(predictor.state)
    return name.removeprefix("PREDICTOR_STATE_").lower()


@dataclass(frozen=True, slots=True)
class Failed:
    """An error that came over the wire, taken apart."""

    code: grpc.StatusCode
    message: str
    info: Any
    """google.rpc.ErrorInfo"""
    status: Any
    """google.rpc.Status"""

    @property
    def reason(self) -> str:
        return str(self.info.reason)

    @property
    def violations(self) -> dict[str, str]:
        """Description by field; fields that come twice keep the last."""
        bad = error_details_pb2.BadRequest()
        assert self._unpack(bad), "no BadRequest"
        return {each.field: each.description for each in bad.field_violations}

    @property
    def fields(self) -> list[str]:
        bad = error_details_pb2.BadRequest()
        assert self._unpack(bad), "no BadRequest"
        return [each.field for each in bad.field_violations]

    @property
    def missing(self) -> list[pb.MissingClass]:
        """The classes of a FailedPredictors."""
        failed = pb.FailedPredictors()
        assert self._unpack(failed), "no FailedPredictors"
        return list(failed.missing)

    @property
    def retry_s(self) -> float:
        retry = error_details_pb2.RetryInfo()
        assert self._unpack(retry), "no RetryInfo"
        return float(retry.retry_delay.ToNanoseconds() / 1e9)

    @property
    def request_id(self) -> str:
        request = error_details_pb2.RequestInfo()
        assert self._unpack(request), "no RequestInfo"
        return str(request.request_id)

    def _unpack(self, message: Any) -> bool:
        return any(detail.Unpack(message) for detail in self.status.details)


def taken_apart(error: aio.AioRpcError) -> Failed:
    """The error of a call, whose details must be there and agree with its status."""
    trailing = dict(tuple(error.trailing_metadata() or ()))
    assert "grpc-status-details-bin" in trailing, f"no details: {error}"
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    assert status.message == error.details()
    return from_status(status)


def from_status(status: Any) -> Failed:
    """A google.rpc.Status taken apart."""
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details), "no ErrorInfo"
    assert info.domain == "trillium"
    code = next(each for each in grpc.StatusCode if each.value[0] == status.code)
    return Failed(code, status.message, info, status)


async def failure_of(call: Any) -> Failed:
    """How `call` fails; it must."""
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return taken_apart(caught.value)


async def failure_told(begin: Callable[[], Any]) -> Failed:
    """How a call fails at its deadline, in the aggregator's words.

    On a busy machine the caller's own clock may be the first to end a call; then another one is
    begun, for some time.
    """
    give_up = time.monotonic() + 40
    while True:
        with pytest.raises(aio.AioRpcError) as caught:
            await begin()
        is_told = "grpc-status-details-bin" in dict(caught.value.trailing_metadata() or ())
        if is_told or time.monotonic() > give_up:
            return taken_apart(caught.value)


async def gathered(*calls: Any) -> list[Any]:
    """What came of each call: its answer, or how it failed."""
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [
        taken_apart(each) if isinstance(each, aio.AioRpcError) else _raised(each)
        for each in outcomes
    ]


def _raised(outcome: Any) -> Any:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome
