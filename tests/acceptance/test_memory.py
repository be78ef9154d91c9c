"""What a request has brought goes with its answer, without a garbage collection."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from tests.aggregator import fakes
from tests.aggregator.fakes import FakePredictor, Reaction
from tests.aggregator.serving import packed
from tests.oip.calling import question
from tests.ports import free_ports
from tests.runtime.engine import ROOT
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.errors import Code

AGGREGATOR = "/trillium.aggregator.v1.AggregatorService/"
INFERENCE = "/inference.GRPCInferenceService/"
CALLS = 12
ROWS = np.ones((1000, 1000), np.float32)
WRONG = np.full((1000, 1000), np.nan, np.float32)
CALL_BYTES = ROWS.nbytes
ROUNDS = 5
ALLOWED_BYTES = CALLS * CALL_BYTES // 2
UNCOLLECTED = (
    "import gc, runpy, sys; gc.disable(); sys.argv[0] = 'aggregator';"
    "runpy.run_module('aggregator', run_name='__main__')"
)
(AGGREGATOR_MEMORY,) = (
    int(line.removeprefix("AGGREGATOR_MEMORY=").removesuffix("m")) * 2**20
    for line in (ROOT / ".env").read_text().splitlines()
    if line.startswith("AGGREGATOR_MEMORY=")
)
"""What the container of the aggregator may use, as shipped."""
_CLIENT = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


class Uncollected:
    """An aggregator in a process that collects no garbage, and what is sent to it."""

    def __init__(self, pid: int, channel: aio.Channel, fake: FakePredictor) -> None:
        self._pid = pid
        self._channel: Any = channel
        self.fake = fake

    def resident_bytes(self) -> int:
        return self._bytes_of("VmRSS")

    def peak_bytes(self) -> int:
        """The most that was resident so far."""
        return self._bytes_of("VmHWM")

    def _bytes_of(self, figure: str) -> int:
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.split(f"{figure}:")[1].split()[0]) * 1024

    async def one(self, path: str, raw: bytes, timeout_s: float = 60) -> None:
        try:
            await self._channel.unary_unary(path)(raw, timeout=timeout_s)
        except aio.AioRpcError:
            return

    async def streamed(self, path: str, raw: bytes) -> None:
        async def requests() -> AsyncIterator[bytes]:
            yield raw
            yield raw

        with suppress(aio.AioRpcError):
            async for _ in self._channel.stream_stream(path)(requests(), timeout=60):
                pass

    async def cancelled(self, path: str, raw: bytes) -> None:
        before = len(self.fake.requests)
        call = self._channel.unary_unary(path)(raw, timeout=60)
        asked = asyncio.ensure_future(call)
        await eventually(lambda: len(self.fake.requests) > before)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)


@asynccontextmanager
async def uncollected(features: int = 1000) -> AsyncIterator[Uncollected]:
    fake = FakePredictor(feature_count=features, ensemble="iris")
    (port,) = free_ports(1)
    async with fakes.running(fake):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", UNCOLLECTED, f"--predictor=a={fake.address}"),
            *(f"--listen=127.0.0.1:{port}", "--log-level=error"),
        )
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}", options=_CLIENT) as channel:
                up = Uncollected(process.pid, channel, fake)
                ask: Any = channel.unary_unary(AGGREGATOR + "GetMetadata")

                async def known() -> bool:
                    try:
                        await ask(b"", timeout=5)
                    except aio.AioRpcError:
                        return False
                    return True

                await eventually(known)
                yield up
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()


PREDICT = pb.PredictRequest(matrix=packed(ROWS)).SerializeToString()
CLASSIFY = pb.ClassifyRequest(matrix=packed(ROWS)).SerializeToString()
INFER = question(ROWS, "iris").SerializeToString()
STREAM = pb.PredictStreamRequest(request=pb.PredictRequest(matrix=packed(ROWS)))
BAD_PREDICT = pb.PredictRequest(matrix=packed(WRONG)).SerializeToString()
BAD_INFER = question(WRONG, "iris").SerializeToString()
FAILS = fakes.fails(Code.INTERNAL, "the model could not be run")

Ask = Callable[[Uncollected], Awaitable[None]]
CASES: dict[str, tuple[Reaction, Ask]] = {
    "predicted": (fakes.scores, lambda up: up.one(AGGREGATOR + "Predict", PREDICT)),
    "classified": (fakes.scores, lambda up: up.one(AGGREGATOR + "Classify", CLASSIFY)),
    "inferred": (fakes.scores, lambda up: up.one(INFERENCE + "ModelInfer", INFER)),
    "streamed": (
        fakes.scores,
        lambda up: up.streamed(AGGREGATOR + "PredictStream", STREAM.SerializeToString()),
    ),
    "inferred in a stream": (
        fakes.scores,
        lambda up: up.streamed(INFERENCE + "ModelStreamInfer", INFER),
    ),
    "wrong": (fakes.scores, lambda up: up.one(AGGREGATOR + "Predict", BAD_PREDICT)),
    "wrong inference": (fakes.scores, lambda up: up.one(INFERENCE + "ModelInfer", BAD_INFER)),
    "failed": (FAILS, lambda up: up.one(AGGREGATOR + "Predict", PREDICT)),
    "failed inference": (FAILS, lambda up: up.one(INFERENCE + "ModelInfer", INFER)),
    "failed in a stream": (
        FAILS,
        lambda up: up.streamed(AGGREGATOR + "PredictStream", STREAM.SerializeToString()),
    ),
    "no message in a stream": (
        fakes.scores,
        lambda up: up.streamed(AGGREGATOR + "PredictStream", b"\xff" * CALL_BYTES),
    ),
    "late": (fakes.hangs, lambda up: up.one(AGGREGATOR + "Predict", PREDICT, 0.4)),
    "cancelled": (fakes.hangs, lambda up: up.cancelled(AGGREGATOR + "Predict", PREDICT)),
}


async def repeated(count: int, ask: Ask, up: Uncollected) -> None:
    for _ in range(count):
        await ask(up)
        up.fake.requests.clear()


async def least_growth(ask: Ask, up: Uncollected) -> int:
    """What calls leave behind, in bytes: the least of several rounds.

    A request that is kept shows in every round. The allocator's own growth does not: it
    takes a new arena for a thread that had none, once, in whichever round that happens.
    """
    least = sys.maxsize
    for _ in range(ROUNDS):
        before = up.resident_bytes()
        await repeated(CALLS, ask, up)
        least = min(least, up.resident_bytes() - before)
        if least <= ALLOWED_BYTES:
            break
    return least


async def test_requests_leave_nothing_however_they_end() -> None:
    grown: dict[str, int] = {}
    async with uncollected() as up:
        for name, (reaction, ask) in CASES.items():
            up.fake.otherwise = reaction
            await repeated(3, ask, up)
            grown[name] = await least_growth(ask, up)
    kept = {name: size for name, size in grown.items() if size > ALLOWED_BYTES}
    assert not kept, f"a request is kept by {kept}"


@pytest.mark.parametrize("reaction", [fakes.scores, fakes.hangs])
@pytest.mark.parametrize(("count", "megabytes"), [(8, 15), (16, 60)])
async def test_large_requests_at_once_stay_within_the_limit_of_the_container(
    count: int, megabytes: int, reaction: Reaction
) -> None:
    rows = np.ones((megabytes * 2**20 // 4096, 1024), np.float32)
    raw = pb.PredictRequest(matrix=packed(rows)).SerializeToString()
    async with uncollected(features=1024) as up:
        up.fake.otherwise = reaction
        await asyncio.gather(*(up.one(AGGREGATOR + "Predict", raw, 5) for _ in range(count)))
        assert up.peak_bytes() < AGGREGATOR_MEMORY
