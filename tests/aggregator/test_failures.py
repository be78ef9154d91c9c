"""What callers see when predictors fail in all the ways that they can."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from aggregator.lanes import predictor_stream, suspects
from aggregator.lanes.batch import NO_BATCH, Batch, LastBatch
from aggregator.lanes.lane import Lane
from aggregator.lanes.predictor_stream import PredictorStream
from aggregator.lanes.ticket import MOST_MOVES, Part, Ticket
from aggregator.plans.roster import Endpoint
from tests.aggregator import fakes
from tests.aggregator.fakes import FakePredictor, Reaction, after, hangs
from tests.aggregator.serving import (
    Aggregated,
    Failed,
    aggregating,
    before_fakes,
    failure_of,
    failure_told,
    gathered,
    packed,
    state_name,
    unpacked,
)
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.clock import SystemClock
from trillium.errors import Code
from trillium.rows import Block
from trillium.rpc.channels import link_channel

ROW = [[0.5, 0.25, 0.125]]
REFUSED = "connection refused"


def one_missing(failed: Any) -> pb.MissingClass:
    assert isinstance(failed, Failed), failed
    assert failed.reason == "PREDICTORS_FAILED"
    (missing,) = failed.missing
    return missing


async def details_are(served: Aggregated, *details: str) -> bool:
    """Whether these are what is wrong with all predictors, in order; empty where one is ready."""
    listed = await served.listed()
    ready = [state_name(each) == "ready" for each in listed]
    return [each.detail for each in listed] == [*details] and ready == [
        not each for each in details
    ]


async def begun(fake: FakePredictor, call: Any) -> asyncio.Future[Any]:
    """Start `call` and wait until the fake has its rows."""
    before = len(fake.requests)
    task: asyncio.Future[Any] = asyncio.ensure_future(call)
    await eventually(lambda: len(fake.requests) > before)
    return task


async def queued(served: Aggregated, *calls: Any) -> list[asyncio.Future[Any]]:
    """Start `calls`, of one row each, one after another, and wait until all are queued."""
    tasks = []
    for call in calls:
        before = served.waiting_rows()
        tasks.append(asyncio.ensure_future(call))
        await eventually(lambda before=before: served.waiting_rows() > before)  # type: ignore[misc]
    return tasks


async def test_every_class_that_is_absent_is_named() -> None:
    present = FakePredictor("b", column=1)
    async with before_fakes(present):
        gone = [Endpoint("a", "127.0.0.1:1"), Endpoint("c", "127.0.0.1:2")]
        async with aggregating(gone[0], present.endpoint, gone[1], ready=False) as served:
            await eventually(lambda: details_are(served, REFUSED, "", REFUSED))
            asked = time.monotonic()
            failed = await failure_of(served.predict(ROW))
            took_s = time.monotonic() - asked
            assert failed.code is grpc.StatusCode.UNAVAILABLE
            assert [
                (each.class_label, each.address, each.phase, each.message)
                for each in failed.missing
            ] == [
                ("a", "127.0.0.1:1", pb.FAILURE_PHASE_CONNECT, REFUSED),
                ("c", "127.0.0.1:2", pb.FAILURE_PHASE_CONNECT, REFUSED),
            ]
            assert all(
                0 <= each.elapsed.ToMilliseconds() <= took_s * 1e3 for each in failed.missing
            )
            assert failed.info.metadata["class_label"] == "a"
            assert served.waiting_rows() == 0


async def test_a_predictor_that_dies_is_known_at_once_and_found_again() -> None:
    fake = FakePredictor()
    async with before_fakes(fake) as served:
        await fake.stop()
        await eventually(lambda: served.states_are("unavailable"))
        missing = one_missing(await failure_of(served.predict(ROW)))
        assert (missing.class_label, missing.address) == ("a", fake.address)
        assert missing.phase == pb.FAILURE_PHASE_CONNECT
        (listed,) = await served.listed()
        assert listed.model_digest == "d1"
        assert listed.detail
        await fake.start()
        await eventually(lambda: served.states_are("ready"))
        assert (await served.scores(ROW)).tolist() == [[0.5]]


async def test_a_predictor_may_start_after_the_aggregator() -> None:
    fake = FakePredictor()
    await fake.start()
    await fake.stop()
    async with aggregating(fake.endpoint, ready=False) as served:
        await eventually(lambda: served.states_are("unavailable"))
        await fake.start()
        await served.until_ready()
        assert (await served.scores(ROW)).tolist() == [[0.5]]
        await fake.stop()


async def test_a_request_waits_for_a_predictor_that_is_just_being_reached() -> None:
    fake = FakePredictor()
    fake.may_describe.clear()
    async with before_fakes(fake, ready=False) as served:
        (call,) = await queued(served, served.scores(ROW))
        fake.may_describe.set()
        assert (await call).tolist() == [[0.5]]


async def test_time_that_runs_out_before_contact_names_the_address() -> None:
    fake = FakePredictor()
    fake.may_describe.clear()
    async with before_fakes(fake, ready=False, default_timeout_s=0.2) as served:
        missing = one_missing(await failure_of(served.predict(ROW, timeout=None)))
        assert missing.address == fake.address
        fake.may_describe.set()


async def test_a_predictor_that_does_not_describe_itself_is_given_up_for_the_time() -> None:
    fake = FakePredictor()
    fake.may_describe.clear()
    async with before_fakes(fake, ready=False) as served:
        await eventually(lambda: served.states_are("unavailable"))
        (listed,) = await served.listed()
        assert listed.detail == "no answer within 2 s"
        fake.may_describe.set()
        await served.until_ready()


async def test_a_predictor_without_a_model_is_not_asked() -> None:
    fake = FakePredictor()
    model, fake.model = fake.model, None
    async with before_fakes(fake, ready=False) as served:
        await eventually(lambda: served.states_are("unavailable"))
        missing = one_missing(await failure_of(served.predict(ROW)))
        assert missing.message == "has no model ready: it is empty"
        fake.model = model
        await served.until_ready()
        assert (await served.scores(ROW)).tolist() == [[0.5]]


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"class_label": "z"}, "its model recognizes 'z', not 'c'"),
        ({"feature_count": 2}, "its model takes 2 features, not 3"),
        ({"ensemble": "other"}, "its model is of ensemble 'other', not 'fake'"),
    ],
    ids=["class", "feature count", "ensemble"],
)
async def test_a_model_that_does_not_fit_is_not_asked(odd: dict[str, Any], reason: str) -> None:
    good = [FakePredictor("a"), FakePredictor("b", column=1)]
    bad = FakePredictor(**{"class_label": "c", "column": 2, **odd})
    async with fakes.running(*good, bad):
        endpoints = [*(each.endpoint for each in good), Endpoint("c", bad.address)]
        async with aggregating(*endpoints, ready=False) as served:
            await eventually(lambda: served.states_are("ready", "ready", "mismatched"))
            missing = one_missing(await failure_of(served.predict(ROW)))
            assert (missing.class_label, missing.message) == ("c", reason)
            assert not bad.requests
            assert not await served.is_serving()
            bad.replace_model(FakePredictor("c", column=2).model)
            await served.until_ready()
            assert (await served.scores(ROW)).tolist() == ROW


async def test_a_hanging_predictor_is_told_before_the_callers_own_time_is_up() -> None:
    fake = FakePredictor()
    fake.otherwise = hangs
    async with before_fakes(fake) as served:
        failed = await failure_told(lambda: served.predict(ROW, timeout=1.0))
        assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED
        missing = one_missing(failed)
        assert (missing.class_label, missing.address) == ("a", fake.address)
        assert missing.phase == pb.FAILURE_PHASE_RUN
        assert missing.message == "the deadline passed before the predictor answered"
        was_given_ms = fake.requests[-1].timeout_us / 1e3
        assert was_given_ms - 1 <= missing.elapsed.ToMilliseconds() <= 1000


async def test_every_class_that_is_late_is_named() -> None:
    late = [FakePredictor("a"), FakePredictor("c", column=2)]
    for fake in late:
        fake.otherwise = hangs
    present = FakePredictor("b", column=1)
    async with before_fakes(late[0], present, late[1], default_timeout_s=2.0) as served:
        failed = await failure_of(served.predict(ROW, timeout=None))
        assert [each.class_label for each in failed.missing] == ["a", "c"]
        assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_without_a_deadline_gets_the_default() -> None:
    fake = FakePredictor()
    async with before_fakes(fake, default_timeout_s=600.0) as served:
        await served.predict(ROW, timeout=None)
    assert 500 < fake.requests[0].timeout_us / 1e6 <= 600
    fake = FakePredictor(script=[hangs])
    async with before_fakes(fake, default_timeout_s=0.2) as served:
        failed = await failure_of(served.predict(ROW, timeout=None))
        assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_predictor_that_hangs_for_good_is_given_up_and_reached_anew() -> None:
    fake = FakePredictor(script=[hangs])
    fake.heeds_withdrawals = False
    async with before_fakes(fake, default_timeout_s=2.0) as served:
        first = await begun(fake, failure_of(served.predict(ROW, timeout=None)))
        (second,) = await queued(served, failure_of(served.predict(ROW)))
        assert (await first).code is grpc.StatusCode.DEADLINE_EXCEEDED
        missing = one_missing(await second)
        assert missing.message == "hangs: it did not answer in time"
        await served.until_ready()
        assert (await served.scores(ROW)).tolist() == [[0.5]]
    assert fake.stream_count == 2


async def test_a_predictor_that_works_on_is_not_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A model whose operator takes long cannot be stopped, and others wait behind it.
    monkeypatch.setattr(predictor_stream, "OVERDUE_S", 0.05)
    gate = asyncio.Event()
    fake = FakePredictor(script=[after(gate)])
    fake.heeds_withdrawals = False
    fake.health_checks = 0
    async with before_fakes(fake) as served:
        hasty = await begun(fake, served.predict(ROW))
        (patient,) = await queued(served, served.scores(ROW))
        hasty.cancel()
        await eventually(lambda: (fake.health_checks or 0) >= 3)
        gate.set()
        assert (await patient).tolist() == [[0.5]]
    assert fake.stream_count == 1


async def test_a_predictor_that_never_ends_its_work_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predictor_stream, "OVERDUE_S", 0.05)
    monkeypatch.setattr(predictor_stream, "LONGEST_RUN_S", 0.3)
    fake = FakePredictor(script=[hangs])
    fake.heeds_withdrawals = False
    fake.health_checks = 0
    async with before_fakes(fake) as served:
        hasty = await begun(fake, served.predict(ROW))
        hasty.cancel()
        await eventually(lambda: fake.stream_count == 2)
        await served.until_ready()
        assert (await served.scores(ROW)).tolist() == [[0.5]]


async def test_a_caller_who_leaves_does_not_chain_others_to_a_predictor_that_hangs() -> None:
    fake = FakePredictor(script=[hangs])
    fake.heeds_withdrawals = False
    async with before_fakes(fake) as served:
        patient = await begun(fake, served.predict(ROW, timeout=3600))
        (other,) = await queued(served, failure_of(served.predict(ROW, timeout=3600)))
        patient.cancel()
        async with asyncio.timeout(40):
            missing = one_missing(await other)
        assert missing.message == "hangs: it did not answer in time"
        await served.until_ready()
        assert (await served.scores(ROW)).tolist() == [[0.5]]


async def test_a_withdrawal_reaches_the_predictor_and_the_stream_goes_on() -> None:
    fake = FakePredictor(script=[hangs])
    async with before_fakes(fake) as served:
        call = await begun(fake, served.predict(ROW))
        call.cancel()
        await eventually(lambda: fake.withdrawn == [fake.requests[0].request_number])
        assert (await served.scores(ROW)).tolist() == [[0.5]]
        assert fake.stream_count == 1
        await served.until_idle()


async def test_one_failure_withdraws_the_request_from_the_other_classes() -> None:
    slow = FakePredictor("a", script=[hangs])
    broken = FakePredictor("b", column=1, script=[fakes.fails(Code.INTERNAL, "no")])
    async with before_fakes(slow, broken) as served:
        missing = one_missing(await failure_of(served.predict(ROW)))
        assert missing.class_label == "b"
        await eventually(lambda: len(slow.withdrawn) == 1)
        assert (await served.scores(ROW)).tolist() == [[0.5, 0.25]]


async def test_a_cancelled_caller_does_not_disturb_those_in_the_same_batch() -> None:
    gate, second = asyncio.Event(), asyncio.Event()
    fake = FakePredictor(script=[after(gate), after(second)])
    async with before_fakes(fake) as served:
        first = await begun(fake, served.scores(ROW))
        others = await queued(
            served, *(served.scores([[value, 0, 0]]) for value in (0.125, 0.25, 0.75))
        )
        gate.set()
        await eventually(lambda: len(fake.requests) == 2)
        others[1].cancel()
        await eventually(lambda: served.aggregator.front.in_flight == 2)
        second.set()
        assert (await first).tolist() == [[0.5]]
        assert (await others[0]).tolist() == [[0.125]]
        assert (await others[2]).tolist() == [[0.75]]
    assert not fake.withdrawn


async def test_a_shorter_deadline_in_a_batch_is_its_own() -> None:
    gate, second = asyncio.Event(), asyncio.Event()
    fake = FakePredictor(script=[after(gate), after(second)])
    async with before_fakes(fake, default_timeout_s=3.0) as served:
        first = await begun(fake, served.scores(ROW))
        hasty, patient = await queued(
            served,
            served.scores([[0.125, 0, 0]], timeout=None),
            served.scores([[0.75, 0, 0]], timeout=60),
        )
        gate.set()
        missing = one_missing(await failure_of(hasty))
        assert missing.phase == pb.FAILURE_PHASE_RUN
        second.set()
        assert (await first).tolist() == [[0.5]]
        assert (await patient).tolist() == [[0.75]]
    assert fake.requests[1].timeout_us > 5_000_000


async def test_what_is_late_in_the_queue_never_reaches_the_predictor() -> None:
    gate = asyncio.Event()
    fake = FakePredictor(script=[after(gate)])
    async with before_fakes(fake, default_timeout_s=0.1) as served:
        first = await begun(fake, served.scores(ROW))
        late = served.predict([[0.125, 0, 0]], timeout=None)
        missing = one_missing(await failure_of(late))
        assert missing.phase == pb.FAILURE_PHASE_QUEUE
        assert missing.address == fake.address
        gate.set()
        assert (await first).tolist() == [[0.5]]
        assert (await served.scores([[0.75, 0, 0]])).tolist() == [[0.75]]
    assert [row[0] for row in fake.rows] == [0.5, 0.75]


async def test_the_time_left_is_passed_on() -> None:
    # gRPC rounds a call's time up, by a hundredth at most.
    fake = FakePredictor()
    async with before_fakes(fake) as served:
        await served.predict(ROW, timeout=100)
        await served.predict(ROW, timeout=3000)
    shorter, longer = (request.timeout_us / 1e6 for request in fake.requests)
    assert 50 < shorter < 100
    assert 2900 < longer < 3000


@pytest.mark.parametrize(
    "reaction",
    [fakes.breaks, fakes.wrong_number, fakes.too_short, fakes.too_long, fakes.garbage,
     fakes.nothing_in_it],
    ids=lambda reaction: reaction.__name__,
)  # fmt: skip
async def test_a_predictor_that_breaks_the_protocol_is_replaced_by_another(
    reaction: Reaction,
) -> None:
    gate = asyncio.Event()
    bad, good = FakePredictor(), FakePredictor()
    bad.otherwise = good.otherwise = after(gate, reaction)
    async with before_fakes(bad, good) as served:
        await eventually(lambda: all(each.stream_count for each in (bad, good)))
        call = asyncio.ensure_future(served.scores([[0.5, 0, 0], [0.75, 0, 0]]))
        await eventually(lambda: bool(bad.requests or good.requests))
        other = good if bad.requests else bad
        other.otherwise = fakes.scores
        gate.set()
        assert (await call).tolist() == [[0.5], [0.75]]


@pytest.mark.parametrize(
    ("reaction", "message"),
    [
        (fakes.breaks, "the machine room is on fire"),
        (fakes.wrong_number, "the predictor answered another request"),
        (fakes.too_short, "the predictor's answer had another length"),
        (fakes.too_long, "the predictor's answer had another length"),
        (fakes.nothing_in_it, "the predictor's answer had another length"),
        (fakes.garbage, "the predictor's answer was not a message"),
        (fakes.fails(0, "no error at all"), "no error at all"),
        (fakes.fails(99, "an unknown code"), "an unknown code"),
        (fakes.fails(Code.INTERNAL, "x" * 100_000), "xxxxxxxxx..."),
        (fakes.fails(Code.INVALID_ARGUMENT, "wrong"), "wrong"),
        (fakes.fails(Code.RESOURCE_EXHAUSTED, "full"), "full"),
        (fakes.nan_for_negative, "the model returned values that are no probabilities"),
    ],
)
async def test_without_another_predictor_the_call_fails_at_once_and_says_why(
    reaction: Reaction, message: str
) -> None:
    fake = FakePredictor(script=[reaction])
    async with before_fakes(fake) as served:
        async with asyncio.timeout(40):
            rows = [[-0.5, 0, 0], [0.5, 0, 0]]
            failed = await failure_of(served.predict(rows, timeout=3600))
        missing = one_missing(failed)
        at_fault = message in ("wrong", "the model returned values that are no probabilities")
        assert missing.rejected == at_fault
        status = grpc.StatusCode
        assert failed.code is (status.INVALID_ARGUMENT if at_fault else status.UNAVAILABLE)
        assert message in missing.message
        assert missing.phase == pb.FAILURE_PHASE_RUN
        assert missing.address == fake.address
        await served.until_ready()
        assert (await served.scores(ROW)).tolist() == [[0.5]]
        await served.until_idle()


async def test_a_replaced_model_is_asked_again_and_callers_notice_nothing() -> None:
    fake = FakePredictor(script=[fakes.ends])
    async with before_fakes(fake) as served:
        assert fake.model is not None
        fake.model.digest = "d2"
        assert (await served.scores(ROW)).tolist() == [[0.5]]
        (listed,) = await served.listed()
        assert listed.model_digest == "d2"
    assert fake.stream_count == 2


async def test_a_request_is_repeated_once_after_trouble_and_no_more() -> None:
    replicas = [FakePredictor() for _ in range(3)]
    for fake in replicas:
        fake.otherwise = fakes.breaks
    async with before_fakes(*replicas) as served:
        missing = one_missing(await failure_of(served.predict(ROW)))
        assert "the machine room is on fire" in missing.message
    assert sum(len(fake.requests) for fake in replicas) == 2


async def test_a_request_outlives_several_predictors_that_leave_in_good_order() -> None:
    script = [fakes.ends] * 4
    fake = FakePredictor(script=script)
    async with before_fakes(fake) as served:
        assert (await served.scores(ROW, timeout=60)).tolist() == [[0.5]]
    assert len(fake.requests) == len(script) + 1


class WrittenAtItsEnd:
    """A stream that ends in the middle of its first write: grpc.aio then overwrites its status."""

    def __init__(self, stream: Any, error: Exception) -> None:
        self._stream = stream
        self._error = error

    def add_done_callback(self, callback: Any) -> None:
        self._stream.add_done_callback(callback)

    def done(self) -> bool:
        return False

    async def write(self, message: bytes) -> None:
        raise self._error

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.INTERNAL

    async def details(self) -> str:
        return MADE_UP

    def cancel(self) -> None:
        self._stream.cancel()


MADE_UP = "Internal error from Core"
NO_METADATA = aio.Metadata()
WRITE_ERRORS = [
    aio.AioRpcError(grpc.StatusCode.INTERNAL, NO_METADATA, NO_METADATA, details=MADE_UP),
    aio.InternalError("the stream has ended"),
    asyncio.InvalidStateError("the stream has ended"),
]


@pytest.mark.parametrize("error", WRITE_ERRORS, ids=lambda error: type(error).__name__)
async def test_a_stream_that_ends_during_a_write_costs_no_call(error: Exception) -> None:
    fake, errors = FakePredictor(), [error]

    def opened(address: str) -> aio.Channel:
        """A channel; the first stream of all ends so."""
        channel: Any = link_channel(address)
        multi_callable = channel.stream_stream

        def stream_stream(path: str) -> Any:
            def call() -> Any:
                stream = multi_callable(path)()
                return WrittenAtItsEnd(stream, errors.pop()) if errors else stream

            return call

        channel.stream_stream = stream_stream
        return channel  # type: ignore[no-any-return]

    async with before_fakes(fake, open_channel=opened) as served:
        assert (await served.scores(ROW)).tolist() == [[0.5]]
        assert not errors


async def test_a_request_is_not_sent_on_for_ever() -> None:
    fake = FakePredictor()
    fake.otherwise = fakes.ends
    async with before_fakes(fake) as served:
        missing = one_missing(await failure_of(served.predict(ROW, timeout=60)))
        assert missing.message == "the predictor's model was unloaded or replaced"
    assert len(fake.requests) == MOST_MOVES + 1


async def test_rows_without_an_answer_fail_only_their_own_caller() -> None:
    await one_bad_caller(fakes.nan_for_negative, "values that are no probabilities")


async def test_a_batch_that_fails_is_split_and_only_the_culprit_fails() -> None:
    await one_bad_caller(fakes.fails_for_negative, "the model could not be run")


async def one_bad_caller(reaction: Reaction, message: str) -> None:
    gate = asyncio.Event()
    fake = FakePredictor(script=[after(gate)])
    fake.otherwise = reaction
    async with before_fakes(fake) as served:
        first = await begun(fake, served.scores(ROW))
        calls = await queued(
            served, *(served.scores([[value, 0, 0]]) for value in (0.125, -1, 0.25, 0.75))
        )
        gate.set()
        assert (await first).tolist() == [[0.5]]
        good_1, bad, good_2, good_3 = await gathered(*calls)
        assert [each.tolist() for each in (good_1, good_2, good_3)] == [
            [[0.125]], [[0.25]], [[0.75]],
        ]  # fmt: skip
        assert message in one_missing(bad).message
        assert fake.stream_count == 1
        await served.until_idle()


async def test_a_full_queue_refuses_and_says_when_to_come_again() -> None:
    gate = asyncio.Event()
    fake = FakePredictor(script=[after(gate)])
    async with before_fakes(fake, max_queued_rows=3) as served:
        first = await begun(fake, served.scores(ROW))
        (waiting,) = await queued(served, served.scores([[0.75, 0, 0]] * 2))
        failed = await failure_of(served.predict(ROW * 2))
        assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failed.reason == "OVERLOADED"
        assert 0 < failed.retry_s <= 10
        gate.set()
        assert (await first).tolist() == [[0.5]]
        assert (await waiting).tolist() == [[0.75]] * 2
        assert (await served.scores(ROW * 2)).tolist() == [[0.5]] * 2


async def test_the_request_id_goes_with_the_call_and_comes_back_with_its_error() -> None:
    fake = FakePredictor()
    fake.otherwise = fakes.fails(Code.INTERNAL, "no")
    async with before_fakes(fake) as served:
        failed = await failure_of(served.predict(ROW, metadata=(("x-request-id", "order-66"),)))
        assert failed.request_id == "order-66"
        unnamed = await failure_of(served.predict(ROW))
        assert unnamed.request_id not in ("", "order-66")
    assert [list(each.request_ids) for each in fake.requests] == [["order-66"], []]


async def test_a_stop_is_not_held_up_by_a_predictor_that_hangs() -> None:
    fake = FakePredictor(script=[hangs])
    fake.heeds_withdrawals = False
    async with asyncio.timeout(40), before_fakes(fake, drain_s=0.1) as served:
        call = await begun(fake, served.predict(ROW, timeout=3600))
    with pytest.raises((aio.AioRpcError, asyncio.CancelledError)):
        await call


async def test_partial_answers_name_those_that_were_late() -> None:
    slow = FakePredictor("b", column=1, script=[hangs])
    async with before_fakes(FakePredictor("a"), slow, default_timeout_s=2.0) as served:
        answer = await served.predict(ROW, allow_partial=True, timeout=None)
        assert unpacked(answer.probabilities).tolist() == [[0.5]]
        (missing,) = answer.missing
        assert (missing.class_label, missing.phase) == ("b", pb.FAILURE_PHASE_RUN)


async def test_a_predictor_that_becomes_a_misfit_while_idle_is_asked_again_when_it_changes() -> (
    None
):
    odd = FakePredictor("a", feature_count=2)
    good = [FakePredictor("b", column=1), FakePredictor("c", column=2)]
    for fake in good:
        fake.may_describe.clear()
    async with before_fakes(odd, *good, ready=False) as served:
        await eventually(lambda: odd.stream_count == 1)
        for fake in good:
            fake.may_describe.set()
        await eventually(lambda: served.states_are("mismatched", "ready", "ready"))
        odd.replace_model(FakePredictor("a").model)
        await served.until_ready()
        assert (await served.scores(ROW)).tolist() == ROW


async def test_while_no_class_is_known_a_request_fails_at_once() -> None:
    async with aggregating(ready=False, controller="127.0.0.1:1") as served:
        for call in (
            served.stub.Classify(pb.ClassifyRequest(matrix=packed(ROW)), timeout=60),
            served.predict(ROW, timeout=60),
        ):
            failed = await failure_of(call)
            assert (failed.code.name, failed.reason) == ("UNAVAILABLE", "NO_METADATA")
            assert "the controller has published no predictor" in failed.message


async def test_no_class_is_left_out_before_a_model_has_told_of_all() -> None:
    fake = FakePredictor("a")
    assert fake.model is not None
    fake.model.ensemble_class_labels.extend(["a", "b"])
    fake.may_describe.clear()
    async with before_fakes(fake, ready=False, controller="127.0.0.1:1") as served:
        early = await failure_of(served.predict(ROW, timeout=60))
        assert (early.code.name, early.reason) == ("UNAVAILABLE", "NO_METADATA")
        assert f"a at {fake.address}: not reached yet" in early.message
        fake.may_describe.set()

        async def is_missed() -> bool:
            failure = await failure_of(served.predict(ROW, timeout=60))
            return failure.reason == "PREDICTORS_FAILED" and "b at no known" in failure.message

        await eventually(is_missed)


POISON = [[0.5, 0.25, -1.0]]


async def kills(fake: FakePredictor, request: Any) -> bytes:
    """Ends the stream with an error if the poison is among the rows."""
    if fakes.matrix(request)[:, 2].min() < 0:
        return await fakes.breaks(fake, request)
    return await fakes.scores(fake, request)


def replicas_of_a(count: int = 2) -> list[FakePredictor]:
    replicas = [FakePredictor() for _ in range(count)]
    for fake in replicas:
        fake.otherwise = kills
    return replicas


async def all_are_ready(served: Aggregated) -> None:
    entries = served.aggregator.roster.entries
    await eventually(
        lambda: all(served.aggregator.roster.is_ready(each.endpoint) for each in entries)
    )


def sent_to(replicas: list[FakePredictor]) -> int:
    return sum(len(fake.requests) for fake in replicas)


async def test_rows_that_take_down_two_predictors_are_refused_by_name() -> None:
    replicas = replicas_of_a()
    async with before_fakes(*replicas) as served:
        await all_are_ready(served)
        failed = await failure_of(served.predict(POISON))
        assert failed.code is grpc.StatusCode.UNAVAILABLE
        assert sent_to(replicas) == 2
        await all_are_ready(served)
        refused = await failure_of(served.predict(POISON))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        digest = hashlib.sha256(np.array(POISON, "<f4").tobytes()).hexdigest()[:16]
        text = f"with the SHA-256 {digest} took down 2 predictors of class 'a' in a row; refused"
        assert refused.violations["rows"].startswith(text)
        assert sent_to(replicas) == 2
        assert (await served.scores(ROW)).tolist() == [[0.5]]


async def test_rows_that_take_down_the_only_predictor_twice_are_refused() -> None:
    fake = FakePredictor()
    fake.otherwise = kills
    async with before_fakes(fake) as served:
        for _ in range(2):
            failed = await failure_of(served.predict(POISON))
            assert failed.code is grpc.StatusCode.UNAVAILABLE
            await all_are_ready(served)
        assert (await failure_of(served.predict(POISON))).code is grpc.StatusCode.INVALID_ARGUMENT
        assert len(fake.requests) == 2


async def test_rows_that_share_a_batch_with_poison_are_scored() -> None:
    gate = asyncio.Event()
    # The poison takes two of them down.
    replicas = replicas_of_a(3)
    for fake in replicas:
        fake.script.append(after(gate))
    async with before_fakes(*replicas) as served:
        await all_are_ready(served)
        first = []
        for count in (1, 2, 3):
            first.append(asyncio.ensure_future(served.predict(ROW)))
            await eventually(lambda count=count: sent_to(replicas) == count)  # type: ignore[misc]
        calls = (served.scores(ROW), failure_of(served.predict(POISON)), served.scores(ROW))
        innocent, guilty, other = await queued(served, *calls)
        gate.set()
        await asyncio.gather(*first)
        await guilty
        assert (await innocent).tolist() == (await other).tolist() == [[0.5]]


async def test_suspected_rows_are_let_through_alone_after_a_while_and_acquitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(suspects, "FIRST_S", 0.0)
    replicas = replicas_of_a()
    async with before_fakes(*replicas) as served:
        await all_are_ready(served)
        await failure_of(served.predict(POISON))
        await all_are_ready(served)
        # Sent once and not again, as it is under suspicion.
        await failure_of(served.predict(POISON))
        assert sent_to(replicas) == 3
        await all_are_ready(served)
        for fake in replicas:
            fake.otherwise = fakes.scores
        assert (await served.scores(POISON)).tolist() == [[0.5]]
        for fake in replicas:
            fake.otherwise = kills
        # Acquitted: again two predictors, not one.
        await failure_of(served.predict(POISON))
        assert sent_to(replicas) == 6


async def test_a_partial_answer_lacks_the_class_that_refuses_rows() -> None:
    replicas, sound = replicas_of_a(), FakePredictor("b", column=1)
    async with before_fakes(*replicas, sound) as served:
        await all_are_ready(served)
        await failure_of(served.predict(POISON))
        await all_are_ready(served)
        answer = await served.predict(POISON, allow_partial=True)
        (missing,) = answer.missing
        assert missing.class_label == "a"
        assert "took down 2 predictors of class 'a'" in missing.message
        assert list(answer.class_labels) == ["b"]


async def test_few_suspicions_are_kept() -> None:
    kept = suspects.Suspects(SystemClock())
    parts = [part_of(number) for number in range(suspects.MOST + 10)]
    for part in parts:
        part.alone = part.retried = True
        kept.blame(part)
    assert kept.find("a", parts[0].ticket.block) is None
    newest = kept.find("a", parts[-1].ticket.block)
    assert newest is not None
    assert newest.deaths == 2
    for _ in range(20):
        kept.blame(parts[-1])
    newest = kept.find("a", parts[-1].ticket.block)
    assert newest is not None
    assert suspects.LONGEST_S - 60 < newest.refused_s <= suspects.LONGEST_S


def part_of(number: int) -> Part:
    block = Block(1, 1, np.array([number], "<f4").tobytes())
    options: dict[str, Any] = {"deadline": 0.0, "wants_all": True, "trace_id": ""}
    return Ticket(block, ("a",), clock=SystemClock(), **options).part(0, "")


async def test_a_predictor_that_dies_while_its_link_gathers_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another replica may take all that comes for long: then nothing else would wake the link."""
    fake, streams = FakePredictor(), []
    gather, on_end = Lane.gather, PredictorStream.on_end

    def noting(self: PredictorStream, wake: Callable[[], None]) -> None:
        streams.append(self)
        on_end(self, wake)

    async def gathering(self: Lane, before: LastBatch = NO_BATCH) -> Batch | None:
        if before.parts and not streams[0].is_done:
            await fake.stop()
            await eventually(lambda: streams[0].is_done)
            return None
        return await gather(self, before)

    monkeypatch.setattr(Lane, "gather", gathering)
    monkeypatch.setattr(PredictorStream, "on_end", noting)
    await fake.start()
    async with aggregating(fake.endpoint) as served:
        await served.scores(ROW)
        await eventually(lambda: served.states_are("unavailable"))
