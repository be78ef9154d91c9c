"""An aggregator whose port several workers share."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from grpc import aio

from aggregator.config import AggregatorConfig
from aggregator.plans.roster import Endpoint
from aggregator.workers import supervise
from tests.acceptance.processes import aggregator, is_alive, predictor, started
from tests.acceptance.test_processes import IRIS
from tests.artifacts import iris_rows, reference_positive_probabilities
from tests.scraping import scraped
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.oip import open_inference_pb2 as oip
from trillium.server.process import StartFailed
from trillium.tensor.v1 import tensor_pb2

CALLS = 40
"""On as many connections: that one worker gets all of them happens once in 2**39 runs."""
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


async def predicted(address: str, row: int) -> np.ndarray:
    """The probabilities of one flower, asked on a connection of its own."""
    data = iris_rows()[row : row + 1].tobytes()
    matrix = tensor_pb2.Float32Matrix(row_count=1, column_count=4, data=data)
    async with aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        answer = await AggregatorServiceStub(channel).Predict(
            pb.PredictRequest(matrix=matrix), timeout=60, wait_for_ready=True
        )
    return np.frombuffer(answer.probabilities.data, "<f4")


async def counted(address: str) -> int:
    """How many requests the worker that happens to answer has answered."""
    async with aio.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelStatistics",
            oip.ModelStatisticsRequest.SerializeToString,
            oip.ModelStatisticsResponse.FromString,
        )
        answer = await ask(oip.ModelStatisticsRequest(name="iris"), timeout=60)
    return int(answer.model_stats[0].inference_stats.success.count)


def children(pid: int) -> set[int]:
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


async def predictions(metrics: str) -> float:
    """How many calls of Predict all workers have answered, as Prometheus sees it."""
    seen = await scraped(metrics)
    return seen.value(
        "rpc_server_call_duration_seconds_count",
        rpc_method="trillium.aggregator.v1.AggregatorService/Predict",
        rpc_response_status_code="OK",
    )


async def test_workers_share_a_port_and_one_that_dies_is_replaced(
    models: Path, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        addresses = []
        for label in IRIS:
            command = predictor(models / f"iris-{label}.onnx", 0)
            server = await stack.enter_async_context(started(*command))
            addresses.append((label, await server.serves()))
        metrics = f"unix:{tmp_path}/metrics.sock"
        options = ("--workers", "2", "--metrics-listen", metrics)
        front = await stack.enter_async_context(started(*aggregator(addresses, *options)))

        def serving() -> set[str]:
            return {line["address"] for line in front.log if line["message"] == "serving"}

        await eventually(lambda: front.stderr.count('"message": "serving"') == 2, 120)
        (address,) = serving()
        workers = children(front.pid)
        assert len(workers) == 2

        wanted = [
            reference_positive_probabilities(
                (models / f"iris-{label}.onnx").read_bytes(), iris_rows()[:CALLS], 1
            )
            for label in IRIS
        ]
        for row in range(CALLS):
            assert np.array_equal(await predicted(address, row), [column[row] for column in wanted])
        assert 0 < max([await counted(address) for _ in range(CALLS)]) < CALLS
        assert await predictions(metrics) == CALLS

        victim, other = sorted(workers)
        os.kill(victim, signal.SIGKILL)
        await eventually(lambda: len(children(front.pid) - {victim, other}) == 1, 60)
        await eventually(lambda: front.stderr.count('"message": "serving"') == 3, 120)
        # What the dead one has counted is not lost: a counter that falls would look like a restart.
        assert await predictions(metrics) == CALLS
        for row in range(CALLS):
            assert len(await predicted(address, row)) == 3
        assert await predictions(metrics) == 2 * CALLS
        workers = children(front.pid)
        front.signal(signal.SIGTERM)
        assert await front.ended() == 0
        assert not any(map(is_alive, workers))


async def test_a_port_that_is_taken_is_said_and_nothing_is_left() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        command = ("aggregator", "--predictor=a=127.0.0.1:1", "--workers=2")
        async with started(*command, f"--listen=127.0.0.1:{port}") as front:
            assert await front.ended() == 1
        assert re.fullmatch(
            f"aggregator: cannot listen on 127.0.0.1:{port}: .*; choose another --listen .*",
            front.stderr,
        )


async def test_nobody_else_gets_the_workers_port() -> None:
    command = ("aggregator", "--predictor=a=127.0.0.1:1")
    async with started(*command, "--workers=2", "--listen=127.0.0.1:0") as front:
        address = await front.serves()
        async with started(*command, f"--listen={address}") as second:
            assert await second.ended() == 1
        assert "in use" in second.stderr


async def test_workers_that_cannot_start_end_the_program() -> None:
    config = AggregatorConfig((Endpoint("a", "127.0.0.1:1"),), listen="127.0.0.1:0", workers=3)
    with pytest.raises(StartFailed, match="a worker could not start"):
        await supervise(config, ("--no-such-flag",), asyncio.Event())


async def test_workers_want_a_tcp_port(tmp_path: Path) -> None:
    command = ("aggregator", "--predictor=a=127.0.0.1:1", "--workers=2")
    async with started(*command, f"--listen=unix:{tmp_path}/a.sock") as front:
        assert await front.ended() == 2
    assert "workers can share a TCP port only" in front.stderr
