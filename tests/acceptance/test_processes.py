"""The real programs, as an operator runs and hurts them."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.acceptance.processes import (
    START_S,
    Server,
    aggregator,
    grpcurl,
    is_alive,
    predictor,
    started,
)
from tests.artifacts import iris_rows, reference_positive_probabilities
from tests.freezing import freeze
from tests.ports import free_ports
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.predictor.v1 import model_service_pb2 as model_pb
from trillium.predictor.v1.model_service_pb2_grpc import ModelServiceStub
from trillium.tensor.v1 import tensor_pb2

IRIS = ("setosa", "versicolor", "virginica")
SERVICE = "trillium.aggregator.v1.AggregatorService"
FLOWER = '{"instances":[{"features":[5.1,3.5,1.4,0.2]}]}'


@dataclass
class Ensemble:
    """Predictors and an aggregator, each a process."""

    models: Path
    ports: list[int]
    predictors: list[Server]
    aggregator: Server
    address: str
    stub: Any
    health: Any
    stack: AsyncExitStack

    async def start_predictor(self, index: int) -> None:
        """Start the predictor of that class, as it was started before."""
        command = predictor(self.models / f"iris-{IRIS[index % 3]}.onnx", self.ports[index])
        self.predictors[index] = await self.stack.enter_async_context(started(*command))

    async def is_serving(self) -> bool:
        answer = await self.health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def states(self) -> list[str]:
        answer = await self.stub.ListPredictors(pb.ListPredictorsRequest(), timeout=60)
        return [
            pb.PredictorState.Name(each.state).removeprefix("PREDICTOR_STATE_").lower()
            for each in answer.predictors
        ]

    async def predict(self, within_s: float = 60) -> np.ndarray:
        """The probabilities of the first flower of each class."""
        rows = iris_rows()[[0, 50, 100]]
        matrix = tensor_pb2.Float32Matrix(row_count=3, column_count=4, data=rows.tobytes())
        answer = await self.stub.Predict(pb.PredictRequest(matrix=matrix), timeout=within_s)
        flat = np.frombuffer(answer.probabilities.data, "<f4")
        return flat.reshape(3, -1)

    async def predict_code(self, within_s: float = 60) -> grpc.StatusCode:
        try:
            await self.predict(within_s)
        except aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@asynccontextmanager
async def ensemble(models: Path, labels: tuple[str, ...] = IRIS) -> AsyncIterator[Ensemble]:
    async with AsyncExitStack() as stack:
        ports = free_ports(len(labels))
        commands = [
            predictor(models / f"iris-{label}.onnx", port)
            for label, port in zip(labels, ports, strict=True)
        ]
        predictors = [await stack.enter_async_context(started(*each)) for each in commands]
        addresses = [
            (label, f"127.0.0.1:{port}") for label, port in zip(labels, ports, strict=True)
        ]
        front = await stack.enter_async_context(started(*aggregator(addresses)))
        address = await front.serves()
        channel = await stack.enter_async_context(aio.insecure_channel(address))
        up = Ensemble(
            models=models,
            ports=ports,
            predictors=predictors,
            aggregator=front,
            address=address,
            stub=AggregatorServiceStub(channel),
            health=health_pb2_grpc.HealthStub(channel),
            stack=stack,
        )
        await eventually(up.is_serving, START_S)
        yield up
    pids = [front.pid, *(each.pid for each in up.predictors)]
    assert not any(is_alive(pid) for pid in pids)


@asynccontextmanager
async def load(call: Callable[[], Awaitable[grpc.StatusCode]]) -> AsyncIterator[list[Any]]:
    """Eight callers who call all the time; what came of it, with the time."""
    outcomes: list[tuple[float, grpc.StatusCode]] = []

    async def caller() -> None:
        while True:
            code = await call()
            outcomes.append((time.monotonic(), code))

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    try:
        yield outcomes
    finally:
        for each in callers:
            each.cancel()
        ended = await asyncio.gather(*callers, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def test_what_a_newcomer_tries_with_grpcurl_works(models: Path) -> None:
    async with ensemble(models) as up:
        listed = (await grpcurl(up.address, "list")).split()
        assert {SERVICE, "grpc.health.v1.Health"} <= set(listed)
        described = await grpcurl(up.address, "describe", SERVICE)
        for method in ("Predict", "Classify", "PredictSample", "GetMetadata", "ListPredictors"):
            assert f"rpc {method} " in described
        assert "Returns the label of the most probable class for each row." in described
        answer = json.loads(await grpcurl("-d", FLOWER, up.address, f"{SERVICE}/Classify"))
        (flower,) = answer["classifications"]
        assert flower["label"] == "setosa"
        assert answer["classLabels"] == list(IRIS)
        check = ("-d", '{"service":""}', up.address, "grpc.health.v1.Health/Check")
        assert json.loads(await grpcurl(*check)) == {"status": "SERVING"}
        wanted = [
            reference_positive_probabilities(
                (models / f"iris-{label}.onnx").read_bytes(), iris_rows()[[0, 50, 100]], 1
            )
            for label in IRIS
        ]
        assert np.array_equal(await up.predict(), np.stack(wanted, axis=1))


async def test_the_truth_is_told_when_a_predictor_is_killed_and_comes_back(models: Path) -> None:
    async with ensemble(models) as up:
        right = await up.predict()
        async with load(up.predict_code) as outcomes:
            await eventually(lambda: len(outcomes) > 50)
            up.predictors[1].signal(signal.SIGKILL)
            killed = time.monotonic()
            await up.predictors[1].ended()

            async def truth_is_told() -> bool:
                return (
                    not await up.is_serving()
                    and await up.states() == ["ready", "unavailable", "ready"]
                    and await up.predict_code() is grpc.StatusCode.UNAVAILABLE
                )

            await eventually(truth_is_told)
            await up.start_predictor(1)
            await up.predictors[1].serves()

            async def whole_again() -> bool:
                return (
                    await up.is_serving()
                    and await up.states() == ["ready"] * 3
                    and await up.predict_code() is grpc.StatusCode.OK
                )

            await eventually(whole_again)
            whole = time.monotonic()
            await eventually(lambda: outcomes[-1][0] > whole + 0.3)
        assert {code for _, code in outcomes} == {
            grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE,
        }  # fmt: skip
        assert all(code is grpc.StatusCode.OK for at, code in outcomes if at < killed)
        assert all(code is grpc.StatusCode.OK for at, code in outcomes if at > whole)
        assert np.array_equal(await up.predict(), right)


async def test_a_predictor_that_is_frozen_is_told_late_and_asked_again_when_it_thaws(
    models: Path,
) -> None:
    async with ensemble(models) as up:
        freeze(up.predictors[0].pid)
        assert await up.predict_code(within_s=0.5) is grpc.StatusCode.DEADLINE_EXCEEDED

        async def is_known() -> bool:
            # Asked again: on a busy machine, the first call may not have reached the predictor.
            await up.predict_code(within_s=0.5)
            return await up.states() == ["unavailable", "ready", "ready"]

        await eventually(is_known)
        assert not await up.is_serving()
        assert await up.predict_code() is grpc.StatusCode.UNAVAILABLE
        up.predictors[0].signal(signal.SIGCONT)
        await eventually(up.is_serving)
        assert await up.predict_code() is grpc.StatusCode.OK


async def test_a_predictor_that_is_told_to_stop_fails_no_call_while_there_is_another(
    models: Path,
) -> None:
    async with ensemble(models, (*IRIS, "setosa")) as up:

        async def all_ready() -> bool:
            return await up.states() == ["ready"] * 4

        await eventually(all_ready)
        async with load(up.predict_code) as outcomes:
            for index in (0, 3):
                count = len(outcomes)
                await eventually(lambda count=count: len(outcomes) > count + 50)  # type: ignore[misc]
                up.predictors[index].signal(signal.SIGTERM)
                assert await up.predictors[index].ended() == 0
                count = len(outcomes)
                await eventually(lambda count=count: len(outcomes) > count + 50)  # type: ignore[misc]
                await up.start_predictor(index)
                await eventually(all_ready)
        assert {code for _, code in outcomes} == {grpc.StatusCode.OK}


async def test_an_aggregator_that_is_told_to_stop_answers_what_it_has(models: Path) -> None:
    (port,) = free_ports(1)
    where = f"127.0.0.1:{port}"
    slow = (*predictor(models / "slow.onnx", port), "--class-label=setosa", "--positive-column=1")
    async with (
        started(*slow) as behind,
        started(*aggregator([("setosa", where)])) as front,
        aio.insecure_channel(await front.serves()) as channel,
        aio.insecure_channel(where) as direct,
    ):
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def is_serving() -> bool:
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=60)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(is_serving, START_S)
        stub: Any = AggregatorServiceStub(channel)
        request = pb.PredictRequest(instances=[pb.Instance(features=[5.1, 3.5, 1.4, 0.2])])
        call = asyncio.ensure_future(
            stub.Predict(request, timeout=60, metadata=(("x-request-id", "last"),))
        )
        await eventually(lambda: is_working(direct))
        front.signal(signal.SIGTERM)
        answer = await call
        assert len(answer.predictions) == 1
        assert await front.ended() == 0
        assert "Traceback" not in front.stderr
        assert [line["outcome"] for line in front.log if line.get("request_id") == "last"] == ["OK"]
        await eventually(lambda: any(line.get("request_id") == "last" for line in behind.log))


async def is_working(channel: aio.Channel) -> bool:
    """Whether the predictor at the end of `channel` has a request in flight."""
    stub: Any = ModelServiceStub(channel)
    answer = await stub.GetModel(model_pb.GetModelRequest(), timeout=60)
    return bool(answer.in_flight_count)


async def test_every_problem_of_the_settings_is_told_at_once() -> None:
    arguments = ("--listen=nowhere", "--max-rows=0", "--predictor=setosa", "--log-level=loud")
    async with started("aggregator", *arguments, TRILLIUM_AGGREGATOR_DRAIN_S="soon") as server:
        assert await server.ended() == 2
    assert "Traceback" not in server.stderr
    for text in ("--listen=nowhere", "--max-rows=0", "--predictor=setosa", "--log-level=loud",
                 "TRILLIUM_AGGREGATOR_DRAIN_S=soon"):  # fmt: skip
        assert sum(text in line for line in server.lines) == 1, server.stderr


@pytest.mark.parametrize("arguments", [[], ["--predictor=a=h:1", "--predictor=a=h:1"]])
async def test_an_aggregator_without_sensible_predictors_does_not_start(
    arguments: list[str],
) -> None:
    async with started("aggregator", *arguments) as server:
        assert await server.ended() == 2
    assert "--predictor" in server.stderr
    assert "Traceback" not in server.stderr


@pytest.mark.parametrize("program", ["aggregator", "predictor"])
async def test_a_port_in_use_is_told_in_one_sentence(program: str, models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        more = (
            ("--predictor=a=127.0.0.1:1",)
            if program == "aggregator"
            else ("--model", str(models / "iris-setosa.onnx"))
        )
        async with started(program, "--listen", address, *more) as server:
            assert await server.ended() == 1
    (line,) = server.lines
    assert line.startswith(f"{program}: cannot listen on {address}")


async def test_a_process_ends_with_status_0_when_interrupted() -> None:
    async with started("aggregator", "--listen=127.0.0.1:0", "--predictor=a=127.0.0.1:1") as server:
        await server.serves()
        server.signal(signal.SIGINT)
        assert await server.ended() == 0
    assert "Traceback" not in server.stderr
