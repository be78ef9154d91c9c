"""`trillium bench`: how many calls an ensemble answers, and how long each one takes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc
import numpy as np
from rich.text import Text

from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub
from trillium.cli.plain import PlainTable
from trillium.cli.show import Screen
from trillium.client import wire
from trillium.client.credentials import access_of
from trillium.errors import NoSample, TrilliumError
from trillium.rows import Rows
from trillium.rpc.channels import client_channel

_WARM_UP_CALLS = 20
_FAILED_PAUSE_S = 0.01
_PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is asked."""

    address: str
    seconds: float
    callers: int
    """Callers that each wait for an answer before they ask again."""
    row_count: int
    """Rows in a call."""
    timeout_s: float


@dataclass(slots=True)
class Measured:
    """What was answered."""

    took_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    """Of the calls that were answered."""
    failures: Counter[str] = field(default_factory=Counter)

    def facts(self, plan: BenchPlan) -> dict[str, Any]:
        """The figures by name."""
        count = len(self.latencies_ms)
        latencies: list[float] = []
        if count:
            latencies = np.percentile(self.latencies_ms, _PERCENTILES).tolist()
        named = zip(_PERCENTILES, latencies, strict=False)
        return {
            **asdict(plan),
            "took_s": round(self.took_s, 3),
            "calls": count,
            "calls_per_s": round(count / self.took_s, 1),
            "rows_per_s": round(count * plan.row_count / self.took_s, 1),
            **{f"p{percent}_ms": round(value, 3) for percent, value in named},
            "max_ms": round(max(self.latencies_ms, default=0.0), 3),
            "failures": dict(self.failures),
        }


async def measure(plan: BenchPlan, rows: Rows | None) -> Measured:
    """Ask for as long as `plan` demands: `rows`, in turn, or the sample of the models.

    Raises NoSample, and what the first call raises.
    """
    channel = client_channel(plan.address, access_of())
    try:
        stub: Any = AggregatorServiceStub(channel)
        if rows is None:
            rows = await _sample(stub, plan)
        some = np.resize(rows, (plan.row_count, rows.shape[1]))
        request = wire.predict_request(some, (), False)
        measured = Measured()
        for _ in range(_WARM_UP_CALLS):
            await _call(stub, request, plan)
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.callers):
                group.create_task(_ask(stub, request, plan, began + plan.seconds, measured))
        measured.took_s = time.perf_counter() - began
        return measured
    finally:
        await channel.close()


async def _sample(stub: Any, plan: BenchPlan) -> Rows:
    try:
        answer = await stub.GetMetadata(pb.GetMetadataRequest(), timeout=plan.timeout_s)
    except grpc.RpcError as failure:
        raise wire.error_of(failure, plan.address, plan.timeout_s) from failure
    if not answer.sample:
        raise NoSample("the models carry no sample row; give a file of rows")
    return np.array([answer.sample], np.float32)


async def _call(stub: Any, request: pb.PredictRequest, plan: BenchPlan) -> None:
    try:
        await stub.Predict(request, timeout=plan.timeout_s)
    except grpc.RpcError as failure:
        raise wire.error_of(failure, plan.address, plan.timeout_s) from failure


async def _ask(
    stub: Any, request: pb.PredictRequest, plan: BenchPlan, until: float, measured: Measured
) -> None:
    while (began := time.perf_counter()) < until:
        try:
            await _call(stub, request, plan)
        except TrilliumError as error:
            measured.failures[error.reason or error.code.name] += 1
            await asyncio.sleep(_FAILED_PAUSE_S)  # What refuses at once is not to be flooded.
        else:
            measured.latencies_ms.append((time.perf_counter() - began) * 1000)


def show(plan: BenchPlan, measured: Measured, screen: Screen) -> None:
    """Print the figures."""
    facts = measured.facts(plan)
    table = PlainTable()
    headings = ("callers", "rows in a call", "calls/s", "rows/s")
    times = [*(f"p{percent} ms" for percent in _PERCENTILES), "max ms", "failed"]
    for heading in (*headings, *times):
        table.add_column(heading, justify="right")
    latencies = [facts.get(f"p{percent}_ms") for percent in _PERCENTILES]
    shown = ["" if value is None else f"{value:.2f}" for value in [*latencies, facts["max_ms"]]]
    rates = [f"{facts['calls_per_s']:,.0f}", f"{facts['rows_per_s']:,.0f}"]
    failed = sum(measured.failures.values())
    table.add_row(str(plan.callers), str(plan.row_count), *rates, *shown, str(failed))
    screen.table(table)
    for reason, count in measured.failures.most_common():
        screen.text(Text(f"{count} calls failed: {reason}", style="red"))
    screen.text(_how(plan))


def _how(plan: BenchPlan) -> Text:
    return Text(
        f"{plan.seconds:g} s from one process, whose own time counts; "
        "the machine's other work does, too"
    )
