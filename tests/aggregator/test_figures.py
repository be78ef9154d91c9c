"""What an aggregator counts is what happened, to the request and to the row."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from grpc import StatusCode

from aggregator.lanes import hedging
from tests.aggregator import fakes
from tests.aggregator.fakes import FakePredictor, hangs
from tests.aggregator.serving import aggregating, before_fakes, failure_of, whole_ensemble
from tests.scraping import scraped
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb

LABELS = ("setosa", "versicolor", "virginica")
FLOWERS = [[5.1, 3.5, 1.4, 0.2], [4.9, 3.0, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]]
CLASSIFY = "trillium.aggregator.v1.AggregatorService/Classify"


def flowers(count: int) -> pb.ClassifyRequest:
    rows = [pb.Instance(features=FLOWERS[number % 4]) for number in range(count)]
    return pb.ClassifyRequest(instances=rows)


async def test_every_request_and_row_is_counted_once(models: Path, tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/m.sock"
    async with whole_ensemble(models, "iris", LABELS, metrics_listen=listen) as served:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(5):
            await served.stub.Classify(flowers(4), timeout=30)
        spent_s = loop.time() - began
        await asyncio.gather(*(served.stub.Classify(flowers(1), timeout=30) for _ in range(32)))
        seen = await scraped(listen)
    calls = "rpc_server_call_duration_seconds_count"
    of_calls = {"rpc_method": CLASSIFY, "rpc_response_status_code": "OK"}
    assert seen.value(calls, **of_calls) == 37
    assert seen.value("trillium_predictions_total", label="setosa") == 5 * 2 + 32
    assert seen.value("trillium_predictions_total", label="virginica") == 5
    assert seen.value("trillium_predictions_total") == 5 * 4 + 32
    for label in LABELS:
        of_class = {"class": label, "ensemble": "iris", "revision": "0"}
        for phase in ("queue", "network", "run"):
            counted = seen.value("trillium_class_seconds_count", phase=phase, **of_class)
            assert counted == 37, (label, phase)
        assert seen.value("trillium_batch_rows_sum", **of_class) == 52
        assert seen.value("trillium_batch_rows_count", **of_class) <= 37
        assert seen.value("trillium_attempts_total", kind="first", **of_class) == 37
        assert seen.value("trillium_queued_rows", **of_class) == 0
        assert seen.value("trillium_rows_in_flight", **of_class) == 0
        assert seen.value("trillium_predictor_state", state="ready", **of_class) == 1
    assert spent_s > 0
    assert seen.value("trillium_missing_classes_total") == 0


async def test_phases_of_one_class_add_up_to_the_time_of_the_call(
    models: Path, tmp_path: Path
) -> None:
    listen = f"unix:{tmp_path}/m.sock"
    paths = ("setosa",)
    async with whole_ensemble(models, "iris", paths, metrics_listen=listen) as served:
        for _ in range(50):
            await served.stub.Predict(pb.PredictRequest(instances=flowers(4).instances), timeout=30)
        seen = await scraped(listen)
    whole = seen.value("rpc_server_call_duration_seconds_sum", rpc_response_status_code="OK")
    phases = seen.value("trillium_class_seconds_sum", ensemble="iris")
    # What is left is parsing, combining and writing.
    assert 0 < phases < whole
    assert all(
        seen.value("trillium_class_seconds_sum", phase=phase) > 0
        for phase in ("queue", "network", "run")
    )


async def test_hedges_repeats_and_failures_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hedging, "FIRST_S", 0.01)
    listen = f"unix:{tmp_path}/m.sock"
    both = [FakePredictor(), FakePredictor()]
    left = [hangs]

    async def react(fake: FakePredictor, request: fakes.Request) -> bytes:
        return await (left.pop(0) if left else fakes.scores)(fake, request)

    for fake in both:
        fake.otherwise = react
    async with before_fakes(*both, metrics_listen=listen) as served:
        roster = served.aggregator.roster
        await eventually(lambda: all(roster.is_ready(each.endpoint) for each in roster.entries))
        await served.scores([[0.5, 0.25, 0.125]], timeout=30)
        seen = await scraped(listen)
    assert seen.value("trillium_attempts_total", kind="first") == 1
    assert seen.value("trillium_attempts_total", kind="hedge") == 1


async def test_a_class_that_is_missing_is_counted_with_its_phase(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/m.sock"
    fake = FakePredictor()
    async with aggregating(fake.endpoint, ready=False, metrics_listen=listen) as served:
        await eventually(lambda: not served.aggregator.roster.has_hope(fake.endpoint.class_label))
        failure = await failure_of(
            served.stub.Predict(
                pb.PredictRequest(instances=[pb.Instance(features=[1.0])]), timeout=20
            )
        )
        assert failure.code is StatusCode.UNAVAILABLE
        seen = await scraped(listen)
    (missing,) = seen.labels("trillium_missing_classes_total")
    assert (missing["class"], missing["phase"]) == (fake.endpoint.class_label, "connect")
    assert (
        seen.value("rpc_server_call_duration_seconds_count", rpc_response_status_code="UNAVAILABLE")
        == 1
    )
