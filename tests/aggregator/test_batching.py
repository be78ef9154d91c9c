"""Requests in their queues and batches, without any network."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aggregator.lanes import lane as lanes
from aggregator.lanes.batch import Batch, LastBatch
from aggregator.lanes.lane import MOST_TURNS, QUIET_TURNS, SHARE_S, Lane
from aggregator.lanes.ticket import Outcome, Part, Ticket
from trillium.clock import SystemClock
from trillium.errors import ClassFailure, Overloaded, Phase
from trillium.rows import Block

CLOCK = SystemClock()
FAR_S = 1000.0


def block(*values: float, width: int = 1) -> Block:
    """A row of `width` equal values for each of `values`."""
    rows = np.repeat(np.array(values, "<f4"), width)
    return Block(len(values), width, rows.tobytes())


def ticket(*values: float, width: int = 1, **options: Any) -> Ticket:
    given = {"deadline": CLOCK.monotonic() + FAR_S, "wants_all": True, "trace_id": "", **options}
    labels = given.pop("class_labels", ("a",))
    return Ticket(block(*values, width=width), labels, clock=CLOCK, **given)


def lane(**limits: int) -> Lane:
    return Lane("a", **{"max_queued_rows": 100, "max_batch_rows": 10, **limits})


def put(into: Lane, *values: float, **options: Any) -> Part:
    part = ticket(*values, **options).part(0, "host:1")
    into.put(part)
    return part


def ignore() -> None:
    """What a test does when nobody waits for a batch any more."""


def values_of(batch: Batch | None) -> list[float]:
    assert batch is not None
    values: list[float] = batch.block.array()[:, 0].tolist()
    return values


def answer(batch: Batch) -> bytes:
    """What an honest predictor answers: each row's own value."""
    return np.array(values_of(batch), "<f4").tobytes()


def outcome_of(part: Part) -> Outcome | None:
    return part.ticket.outcomes[part.index]


async def test_what_waits_travels_together_and_each_gets_its_own_rows() -> None:
    queue = lane()
    parts = [put(queue, 1, 2), put(queue, 3), put(queue, 4, 5, 6)]
    batch = queue.take()
    assert values_of(batch) == [1, 2, 3, 4, 5, 6]
    assert queue.take() is None
    assert batch is not None
    batch.sent_to("host:1", ignore)
    batch.settle(answer(batch))
    assert [outcome_of(part) for part in parts] == [part.ticket.block.data for part in parts]
    assert all(part.ticket.ended for part in parts)


async def test_a_batch_has_no_more_rows_than_allowed() -> None:
    queue = lane(max_batch_rows=3)
    for value in range(4):
        put(queue, value, value)
    assert values_of(queue.take()) == [0, 0]
    put(queue, 9)
    assert values_of(queue.take()) == [1, 1]
    assert values_of(queue.take()) == [2, 2]
    assert values_of(queue.take()) == [3, 3, 9]


async def test_a_request_larger_than_a_batch_travels_alone() -> None:
    queue = lane(max_batch_rows=3)
    put(queue, 1)
    put(queue, *range(5))
    put(queue, 2)
    assert values_of(queue.take()) == [1]
    assert values_of(queue.take()) == [0, 1, 2, 3, 4]
    assert values_of(queue.take()) == [2]


async def test_a_batch_of_several_is_no_larger_than_the_largest_message() -> None:
    queue = lane(max_batch_bytes=64)
    put(queue, 1, width=8)
    put(queue, 2, width=8)
    put(queue, 3, width=8)
    put(queue, 4, width=32)
    assert values_of(queue.take()) == [1, 2]
    assert values_of(queue.take()) == [3]
    assert values_of(queue.take()) == [4]


async def test_rows_of_another_width_wait_for_the_next_batch() -> None:
    queue = lane()
    put(queue, 1)
    put(queue, 2, width=2)
    put(queue, 3)
    assert values_of(queue.take()) == [1]
    assert values_of(queue.take()) == [2]
    assert values_of(queue.take()) == [3]


async def test_a_part_that_must_go_alone_does() -> None:
    queue = lane()
    parts = [put(queue, value) for value in (1, 2, 3)]
    parts[1].alone = True
    assert values_of(queue.take()) == [1]
    assert values_of(queue.take()) == [2]
    assert values_of(queue.take()) == [3]


async def test_a_batch_waits_for_what_is_arriving() -> None:
    queue = lane()
    put(queue, 0)

    async def arrive() -> None:
        for value in range(1, 10):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            put(queue, value)

    arriving = asyncio.create_task(arrive())
    assert values_of(await queue.gather()) == list(range(10))
    await arriving


async def test_a_request_that_is_alone_waits_for_a_few_turns_and_no_timer() -> None:
    queue = lane()
    put(queue, 1)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    assert values_of(await queue.gather()) == [1]
    assert 0 < turns <= QUIET_TURNS + 1
    assert await queue.gather() is None
    turns = 0
    put(queue, 2)
    assert values_of(await queue.gather(LastBatch(parts=1))) == [2]
    assert turns == 0, "one that follows another does not wait at all"
    counting.cancel()


async def test_a_batch_waits_for_the_callers_of_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow the machine is, they come in time.
    monkeypatch.setattr(lanes, "LONGEST_PATIENCE_S", 30.0)
    monkeypatch.setattr(lanes, "MOST_PATIENCE_S", 60.0)
    queue = lane()
    put(queue, 0)

    async def come_back() -> None:
        for value in (1, 2):
            for _ in range(5 * QUIET_TURNS):
                await asyncio.sleep(0)
            put(queue, value)

    coming = asyncio.create_task(come_back())
    assert values_of(await queue.gather(LastBatch(parts=3, took_s=1000))) == [0, 1, 2]
    await coming


async def test_callers_who_do_not_come_back_are_not_waited_for() -> None:
    queue = lane()
    put(queue, 1)
    async with asyncio.timeout(10):
        assert values_of(await queue.gather(LastBatch(parts=3, took_s=1000))) == [1]


async def test_nobody_is_waited_for_without_end() -> None:
    queue = lane(max_batch_rows=10**9, max_queued_rows=10**9)
    put(queue, 0)

    async def come_and_come() -> None:
        while True:
            put(queue, 1)
            await asyncio.sleep(0)

    coming = asyncio.create_task(come_and_come())
    async with asyncio.timeout(10):
        assert len(values_of(await queue.gather(LastBatch(parts=10**9, took_s=1000)))) > 1
    coming.cancel()


async def test_a_full_batch_waits_for_nobody() -> None:
    queue = lane(max_batch_rows=3)
    for value in range(3):
        put(queue, value)
    assert values_of(await queue.gather(LastBatch(parts=100, took_s=1000))) == [0, 1, 2]


async def test_who_stops_waiting_for_callers_leaves_the_queue_as_it_is() -> None:
    queue = lane()
    part = put(queue, 1)
    gathering = asyncio.create_task(queue.gather(LastBatch(parts=100, took_s=1000)))
    await asyncio.sleep(0)
    gathering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gathering
    assert values_of(await queue.gather(LastBatch(parts=1))) == [1]
    again = put(queue, 2)
    gathering = asyncio.create_task(queue.gather(LastBatch(parts=100, took_s=1000)))
    await asyncio.sleep(0)
    queue.withdraw(again)
    async with asyncio.timeout(10):
        assert await gathering is None
    assert outcome_of(part) is None


async def test_a_batch_leaves_however_many_are_arriving() -> None:
    queue = lane(max_batch_rows=1000, max_queued_rows=1000)
    put(queue, 0)

    async def arrive() -> None:
        for value in range(1, 10 * MOST_TURNS):
            await asyncio.sleep(0)
            put(queue, value)

    arriving = asyncio.create_task(arrive())
    gathered = values_of(await queue.gather())
    assert gathered == list(range(len(gathered)))
    assert MOST_TURNS - 1 <= len(gathered) <= MOST_TURNS + 1
    arriving.cancel()


async def test_predictors_that_gather_at_once_share_what_waits() -> None:
    queue = lane()
    for value in range(7):
        put(queue, value)
    slow = LastBatch(parts=1, took_s=SHARE_S)
    batches = await asyncio.gather(*(queue.gather(slow) for _ in range(3)))
    assert sorted(map(values_of, batches)) == [[0, 1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(("part_s", "count"), [(SHARE_S / 7, 1), (SHARE_S * 2 / 7, 2), (0.0, 1)])
async def test_so_many_predictors_gather_as_there_is_work_for(part_s: float, count: int) -> None:
    queue = lane()
    for value in range(7):
        put(queue, value)
    # A hair more than that, so that rounding changes nothing.
    pace = LastBatch(parts=1, took_s=part_s * 1.001)
    batches = await asyncio.gather(*(queue.gather(pace) for _ in range(4)))
    assert len([each for each in batches if each is not None]) == count
    assert queue.queued_rows == 0


async def test_who_finds_another_gathering_is_woken_for_what_that_one_leaves() -> None:
    queue = lane(max_batch_rows=2)
    put(queue, 0)
    gathering = asyncio.create_task(queue.gather())
    await asyncio.sleep(0)
    assert await queue.gather() is None
    free = queue.work()
    for value in (1, 2):
        put(queue, value)
    assert not free.done()
    assert values_of(await gathering) == [0, 1]
    assert free.done()
    assert values_of(await queue.gather()) == [2]


async def test_a_predictor_that_goes_while_it_gathers_takes_nothing() -> None:
    queue = lane()
    put(queue, 1)
    going = asyncio.create_task(queue.gather())
    await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    put(queue, 2)
    assert values_of(await queue.gather()) == [1, 2]


async def test_parts_come_back_before_all_others_in_their_order() -> None:
    queue = lane()
    for value in (1, 2, 3):
        put(queue, value)
    batch = queue.take()
    assert batch is not None
    put(queue, 4)
    batch.sent_to("host:1", ignore)
    queue.put_back(batch.parts)
    assert queue.queued_rows == 4
    assert values_of(queue.take()) == [1, 2, 3, 4]


async def test_parts_of_tickets_that_ended_do_not_come_back() -> None:
    queue = lane()
    first, second = put(queue, 1), put(queue, 2)
    batch = queue.take()
    assert batch is not None
    batch.sent_to("host:1", ignore)
    first.ticket.fail(first, "gone")
    queue.put_back(batch.parts)
    assert values_of(queue.take()) == [2]
    assert first.holder is None
    assert not second.ticket.ended


async def test_a_caller_that_goes_away_leaves_the_queue() -> None:
    queue = lane()
    stays, goes = put(queue, 1), put(queue, 2, 2)
    waiting = asyncio.ensure_future(goes.ticket.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert goes.ticket.ended
    assert queue.queued_rows == 1
    assert values_of(queue.take()) == [1]
    assert not stays.ticket.ended


async def test_a_batch_is_abandoned_when_the_last_of_its_callers_goes_away() -> None:
    queue = lane()
    parts = [put(queue, value) for value in (1, 2)]
    batch = queue.take()
    assert batch is not None
    abandoned: list[bool] = []
    batch.sent_to("host:1", lambda: abandoned.append(True))
    callers = [asyncio.ensure_future(part.ticket.wait()) for part in parts]
    await asyncio.sleep(0)
    for count, caller in enumerate(callers):
        assert len(abandoned) == 0, count
        caller.cancel()
        await asyncio.wait({caller})
    assert abandoned == [True]


async def test_the_first_failure_ends_a_ticket_that_wants_all_and_withdraws_its_other_parts() -> (
    None
):
    one, other = lane(), lane()
    asked = ticket(1, class_labels=("a", "b"))
    first, second = asked.part(0, "host:1"), asked.part(1, "host:2")
    one.put(first)
    other.put(second)
    waiting = asyncio.ensure_future(asked.wait())
    one.fail_all("it is gone", "host:1")
    await waiting
    failure, unknown = asked.outcomes
    assert isinstance(failure, ClassFailure)
    assert (failure.class_label, failure.address, failure.phase, failure.message) == (
        "a", "host:1", Phase.CONNECT, "it is gone",
    )  # fmt: skip
    assert not failure.timed_out
    assert unknown is None
    assert other.queued_rows == 0
    assert other.take() is None


async def test_a_ticket_that_takes_less_waits_for_the_others() -> None:
    one, other = lane(), lane()
    asked = ticket(1, class_labels=("a", "b"), wants_all=False)
    one.put(asked.part(0, "host:1"))
    other.put(asked.part(1, "host:2"))
    one.fail_all("it is gone", "host:1")
    assert not asked.ended
    batch = other.take()
    assert batch is not None
    batch.sent_to("host:2", ignore)
    batch.settle(answer(batch))
    assert asked.ended
    await asked.wait()
    assert isinstance(asked.outcomes[0], ClassFailure)
    assert asked.outcomes[1] == asked.block.data


async def test_time_that_runs_out_in_the_queue_is_told_with_those_who_could_have_answered() -> None:
    queue = lane()
    deadline = CLOCK.monotonic() + 0.01
    part = put(queue, 1, deadline=deadline)
    await part.ticket.wait()
    failure = outcome_of(part)
    assert isinstance(failure, ClassFailure)
    assert (failure.phase, failure.timed_out, failure.address) == (Phase.QUEUE, True, "host:1")
    assert failure.message == "the deadline passed before its turn came"
    assert failure.elapsed_s >= deadline - part.ticket.started - 0.001
    assert queue.queued_rows == 0


async def test_every_class_that_is_late_is_named() -> None:
    one, other = lane(), lane()
    asked = ticket(1, class_labels=("a", "b", "c"), deadline=CLOCK.monotonic() + 0.01)
    asked.settle(asked.part(1, "host:2"), b"\0\0\0\0")
    one.put(asked.part(0, "host:1"))
    other.put(asked.part(2, "host:3"))
    batch = other.take()
    assert batch is not None
    batch.sent_to("host:3", ignore)
    await asked.wait()
    failures = [each for each in asked.outcomes if isinstance(each, ClassFailure)]
    assert [(each.class_label, each.phase) for each in failures] == [
        ("a", Phase.QUEUE),
        ("c", Phase.RUN),
    ]
    assert asked.outcomes[1] == b"\0\0\0\0"


async def test_a_shorter_deadline_in_a_batch_ends_only_its_own_ticket() -> None:
    queue = lane()
    hasty, patient = put(queue, 1, deadline=CLOCK.monotonic() + 0.01), put(queue, 2)
    batch = queue.take()
    assert batch is not None
    assert batch.deadline == patient.ticket.deadline
    batch.sent_to("host:1", ignore)
    await hasty.ticket.wait()
    failure = outcome_of(hasty)
    assert isinstance(failure, ClassFailure)
    assert failure.phase is Phase.RUN
    assert not patient.ticket.ended
    batch.settle(answer(batch))
    assert outcome_of(patient) == patient.ticket.block.data
    assert outcome_of(hasty) is failure


async def test_a_deadline_that_has_passed_ends_the_wait_at_once() -> None:
    part = put(lane(), 1, deadline=CLOCK.monotonic() - 1)
    await asyncio.wait_for(part.ticket.wait(), 40)
    assert isinstance(outcome_of(part), ClassFailure)


async def test_a_full_queue_refuses_and_an_empty_one_takes_anything() -> None:
    queue = lane(max_queued_rows=5)
    queue.check_room(1000)
    put(queue, 1, 2, 3)
    queue.check_room(2)
    with pytest.raises(Overloaded, match="3 rows wait for class a already; at most 5 may"):
        queue.check_room(3)


async def test_work_wakes_the_predictor_that_has_been_free_for_longest() -> None:
    queue = lane()
    first, second = queue.work(), queue.work()
    put(queue, 1)
    assert (first.done(), second.done()) == (True, False)
    put(queue, 2)
    assert second.done()
    assert queue.work().done()


async def test_a_predictor_that_stopped_waiting_is_passed_over() -> None:
    queue = lane()
    gone, next_one = queue.work(), queue.work()
    gone.cancel()
    put(queue, 1)
    assert next_one.done()


async def test_only_chosen_request_ids_travel() -> None:
    queue = lane()
    put(queue, 1, trace_id="mine")
    put(queue, 2)
    batch = queue.take()
    assert batch is not None
    assert batch.trace_ids == ["mine"]


class LaneMachine(RuleBasedStateMachine):
    """Two lanes, tickets of one or two classes, and everything that may happen to them at random.

    Every row has a value of its own, so a mixed-up answer cannot stay unseen.
    """

    LABELS = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.lanes = [Lane(label, max_queued_rows=10**6, max_batch_rows=7) for label in self.LABELS]
        self.next_value = 0
        self.tickets: list[tuple[Ticket, list[Part], asyncio.Task[None]]] = []
        self.batches: list[tuple[int, Batch, list[bool]]] = []

    def teardown(self) -> None:
        try:
            for _, _, task in self.tickets:
                task.cancel()
            self.run()
            assert [queue.queued_rows for queue in self.lanes] == [0, 0]
            assert [queue.take() for queue in self.lanes] == [None, None]
            assert all(abandoned for _, _, abandoned in self.batches)
        finally:
            self.loop.close()

    def run(self) -> None:
        """Let everything happen that is due."""

        async def turns() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    @rule(
        rows=st.integers(1, 9),
        width=st.sampled_from([1, 1, 1, 2]),
        slots=st.sampled_from([(0,), (1,), (0, 1)]),
        wants_all=st.booleans(),
        late=st.sampled_from([False, False, False, True]),
    )
    def ask(
        self, rows: int, width: int, slots: tuple[int, ...], wants_all: bool, late: bool
    ) -> None:
        async def asking() -> None:
            values = range(self.next_value, self.next_value + rows)
            deadline = CLOCK.monotonic() + (-1 if late else FAR_S)
            labels = [self.LABELS[slot] for slot in slots]
            asked = ticket(
                *values, width=width, class_labels=labels, wants_all=wants_all, deadline=deadline
            )
            parts = [asked.part(place, f"lane{slot}") for place, slot in enumerate(slots)]
            for slot, part in zip(slots, parts, strict=True):
                self.lanes[slot].put(part)
            self.tickets.append((asked, parts, asyncio.ensure_future(asked.wait())))

        self.next_value += rows
        self.loop.run_until_complete(asking())

    @rule(slot=st.sampled_from([0, 1]))
    def take(self, slot: int) -> None:
        batch = self.lanes[slot].take()
        if batch is None:
            assert self.lanes[slot].queued_rows == 0
            return
        rows = [part.ticket.block.row_count for part in batch.parts]
        assert sum(rows) == batch.block.row_count
        assert len(rows) == 1 or sum(rows) <= 7
        assert len({part.ticket.block.column_count for part in batch.parts}) == 1
        abandoned: list[bool] = []
        batch.sent_to(f"predictor{slot}", lambda: abandoned.append(True))
        self.batches.append((slot, batch, abandoned))

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 10))
    def settle(self, which: int) -> None:
        _, batch, _ = self.batches.pop(which % len(self.batches))
        batch.settle(answer(batch))

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 10))
    def fail(self, which: int) -> None:
        _, batch, _ = self.batches.pop(which % len(self.batches))
        batch.fail("broke")

    @precondition(lambda self: self.batches)
    @rule(which=st.integers(0, 10), alone=st.booleans())
    def give_back(self, which: int, alone: bool) -> None:
        slot, batch, _ = self.batches.pop(which % len(self.batches))
        batch.came_back()
        for part in batch.parts:
            part.alone = part.alone or alone
        self.lanes[slot].put_back(batch.parts)

    @precondition(lambda self: self.tickets)
    @rule(which=st.integers(0, 100))
    def cancel(self, which: int) -> None:
        self.tickets[which % len(self.tickets)][2].cancel()

    @rule(slot=st.sampled_from([0, 1]))
    def lose_hope(self, slot: int) -> None:
        self.lanes[slot].fail_all("no predictor", f"predictor{slot}")

    @rule()
    def let_things_happen(self) -> None:
        self.run()
        for _, batch, abandoned in self.batches:
            waits = any(not part.ticket.ended for part in batch.parts)
            assert abandoned == ([] if waits else [True])

    @invariant()
    def the_rows_that_wait_are_counted_right(self) -> None:
        for slot, queue in enumerate(self.lanes):
            waiting = [
                part for _, parts, _ in self.tickets for part in parts if part.holder is queue
            ]
            assert queue.queued_rows == sum(part.ticket.block.row_count for part in waiting), slot

    @invariant()
    def an_outcome_is_its_own_rows_or_a_failure_of_its_own_class(self) -> None:
        for asked, _, _ in self.tickets:
            own = asked.block.array()[:, 0].astype("<f4").tobytes()
            for label, outcome in zip(asked.class_labels, asked.outcomes, strict=True):
                if isinstance(outcome, ClassFailure):
                    assert outcome.class_label == label
                else:
                    assert outcome in (None, own)

    @invariant()
    def a_ticket_is_open_just_while_a_part_of_it_is_somewhere(self) -> None:
        self.run()
        for asked, parts, task in self.tickets:
            unsettled = [part for part in parts if asked.outcomes[part.index] is None]
            if asked.ended:
                assert task.done()
                assert all(part.holder is None for part in parts)
            else:
                assert unsettled
                assert all(part.holder is not None for part in unsettled)


LaneMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLaneUnderEverything = LaneMachine.TestCase


@pytest.mark.parametrize("end", ["answered", "failed", "late", "cancelled"])
async def test_a_request_is_freed_with_its_answer(end: str) -> None:
    queue = lane()
    gc.collect()
    gc.disable()
    try:
        asked = ticket(1.0, deadline=CLOCK.monotonic() + (0.01 if end == "late" else FAR_S))
        queue.put(asked.part(0, "here"))
        waiting = asyncio.create_task(asked.wait())
        await asyncio.sleep(0)
        batch = None if end in ("late", "cancelled") else queue.take()
        if batch is not None:
            batch.settle(b"\0" * 4) if end == "answered" else batch.fail("broken")
        if end == "cancelled":
            waiting.cancel()
        await asyncio.wait([waiting])
        del asked, batch, waiting
        assert not [each for each in gc.get_objects() if isinstance(each, Ticket | Part | Block)]
    finally:
        gc.enable()
