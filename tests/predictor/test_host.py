"""The model of a predictor is loaded, used, replaced and unloaded, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from predictor import guard
from predictor.host import ModelHost
from predictor.lifecycle import ModelStage
from predictor.loaded import DISTRUST_S
from predictor.onnx import RunHandle
from tests import artifacts
from tests.artifacts import iris_rows, reference_positive_probabilities
from tests.onnx_graphs import WEIGHTS
from tests.predictor.endless import ENDLESS_ROWS, endless_on_demand
from tests.predictor.serving import load
from tests.waiting import eventually
from trillium.errors import (
    Cancelled,
    DeadlineExceeded,
    ModelBusy,
    ModelNotLoaded,
    ModelRejected,
    Overloaded,
)
from trillium.model.declared import DeclaredFacts
from trillium.rows import Block

FOREVER = math.inf


class MovedClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def told() -> list[bool]:
    """What the host said of whether it serves."""
    return []


@pytest.fixture
async def host(clock: MovedClock, told: list[bool]) -> AsyncIterator[ModelHost]:
    host = ModelHost(clock=clock, max_waiting=4, on_change=told.append)
    yield host
    await asyncio.wait_for(host.close(), 60)


@pytest.fixture
def handles() -> Iterator[list[RunHandle]]:
    """Handles of runs; those that are still running at the end of the test are stopped."""
    handles: list[RunHandle] = []
    yield handles
    for handle in handles:
        handle.stop()


def block_of(rows: np.ndarray) -> Block:
    return Block(rows.shape[0], rows.shape[1], rows.astype("<f4").tobytes())


ROWS = block_of(iris_rows())
ENDLESS = block_of(ENDLESS_ROWS)


def expected(artifact: bytes) -> bytes:
    return bytes(reference_positive_probabilities(artifact, iris_rows(), 1).tobytes())


async def test_empty_host_has_nothing_to_ask(host: ModelHost) -> None:
    assert host.state is ModelStage.EMPTY
    assert host.description is None
    assert host.in_flight == 0
    with pytest.raises(ModelNotLoaded, match="empty"):
        _ = host.model
    assert await host.unload() is None


async def test_loaded_model_answers_and_tells_when_it_began(
    host: ModelHost, clock: MovedClock, told: list[bool]
) -> None:
    clock.seconds += 5
    artifact = artifacts.two_column_tensor()
    description = await load(host, artifact)
    assert (host.state, host.state_time) == (ModelStage.READY, clock.now())
    assert description.size_bytes == len(artifact)
    assert description.feature_count == 4
    assert told == [False, True]
    answer = await host.score(host.model, ROWS, FOREVER)
    assert answer.tobytes() == expected(artifact)


async def test_quick_model_is_scored_without_leaving_the_event_loop(host: ModelHost) -> None:
    await load(host, artifacts.renamed_opset(13))
    scoring = host.score(host.model, block_of(iris_rows()[:1]), FOREVER)
    with pytest.raises(StopIteration):  # The coroutine ends at its first step.
        scoring.send(None)


async def test_slow_model_leaves_the_event_loop_free(
    host: ModelHost, handles: list[RunHandle]
) -> None:
    await load(host, artifacts.slow(30))
    run = asyncio.create_task(host.score(host.model, ROWS, FOREVER))
    turns = 0
    while not run.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 20
    assert (await run).tobytes() == expected(artifacts.renamed_opset(13))


async def test_loading_leaves_the_event_loop_free(host: ModelHost) -> None:
    task = asyncio.create_task(load(host, artifacts.slow(10)))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 50


async def test_same_artifact_loaded_twice_is_loaded_once(host: ModelHost) -> None:
    first = await load(host, artifacts.two_column_tensor())
    model = host.model
    assert await load(host, artifacts.two_column_tensor()) is first
    assert host.model is model
    assert not model.retired.is_set()


async def test_same_artifact_with_another_column_is_another_model(host: ModelHost) -> None:
    await load(host, artifacts.two_column_tensor())
    model = host.model
    await load(
        host, artifacts.two_column_tensor(), DeclaredFacts(class_label="other", positive_column=0)
    )
    assert host.model is not model
    await eventually(model.retired.is_set)


async def test_artifact_is_loaded_again_after_it_was_unloaded(host: ModelHost) -> None:
    await load(host, artifacts.two_column_tensor())
    await host.unload()
    await load(host, artifacts.two_column_tensor())
    answer = await host.score(host.model, ROWS, FOREVER)
    assert answer.tobytes() == expected(artifacts.two_column_tensor())


async def test_replacement_lets_the_old_model_finish_what_it_has(
    host: ModelHost, handles: list[RunHandle], told: list[bool]
) -> None:
    await load(host, endless_on_demand())
    old = host.model
    handles.append(RunHandle())
    run = asyncio.create_task(host.score(old, ENDLESS, FOREVER, handles[0]))
    waiting = asyncio.create_task(host.score(old, ROWS, FOREVER))
    await eventually(lambda: old.runs == 2)
    await load(host, artifacts.two_column_tensor())
    assert host.model is not old
    await eventually(old.retired.is_set)
    assert told == [False, True, True, True]
    answer = await host.score(host.model, ROWS, FOREVER)
    assert answer.tobytes() == expected(artifacts.two_column_tensor())
    handles[0].stop()
    with pytest.raises(Cancelled):
        await run
    assert (await waiting).tobytes() == expected(artifacts.renamed_opset(13))


async def given_up(loading: asyncio.Task[Any]) -> None:
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading


async def test_old_model_serves_while_its_replacement_warms_up(
    host: ModelHost, told: list[bool]
) -> None:
    await load(host, artifacts.two_column_tensor())
    replacement = asyncio.create_task(load(host, artifacts.slow(60_000)))
    await eventually(lambda: host.state is ModelStage.REPLACING)
    answer = await host.score(host.model, ROWS, FOREVER)
    assert answer.tobytes() == expected(artifacts.two_column_tensor())
    assert not replacement.done()
    assert all(told[1:])
    await given_up(replacement)


async def test_failed_replacement_leaves_the_old_model_serving(
    host: ModelHost, told: list[bool]
) -> None:
    first = await load(host, artifacts.two_column_tensor())
    with pytest.raises(ModelRejected):
        await load(host, artifacts.three_classes())
    assert host.state is ModelStage.READY
    assert host.description is first
    assert not host.model.retired.is_set()
    assert all(told[1:])
    answer = await host.score(host.model, ROWS, FOREVER)
    assert answer.tobytes() == expected(artifacts.two_column_tensor())


async def test_failed_first_load_leaves_the_host_empty(host: ModelHost, told: list[bool]) -> None:
    with pytest.raises(ModelRejected):
        await load(host, artifacts.not_onnx())
    assert host.state is ModelStage.EMPTY
    assert told == [False, False]
    await load(host, artifacts.two_column_tensor())
    assert told[-1]


async def test_only_one_load_or_unload_at_a_time(host: ModelHost) -> None:
    first = asyncio.create_task(load(host, artifacts.slow(60_000)))
    await eventually(lambda: host.state is ModelStage.LOADING)
    with pytest.raises(ModelBusy, match="cannot load while the model is loading"):
        await load(host, artifacts.two_column_tensor())
    with pytest.raises(ModelBusy, match="cannot unload while the model is loading"):
        await host.unload()
    await given_up(first)
    await load(host, artifacts.two_column_tensor())
    again = asyncio.create_task(load(host, artifacts.slow(60_000)))
    await eventually(lambda: host.state is ModelStage.REPLACING)
    with pytest.raises(ModelBusy, match="replacing"):
        await host.unload()
    await given_up(again)
    assert host.state is ModelStage.READY


async def test_load_that_is_given_up_stops_and_leaves_what_was(host: ModelHost) -> None:
    await load(host, artifacts.two_column_tensor())
    endless = asyncio.create_task(load(host, artifacts.slow(60_000)))
    await eventually(lambda: host.state is ModelStage.REPLACING)
    await given_up(endless)
    assert host.state is ModelStage.READY
    # There is one loading thread: this shows that it is free again.
    await asyncio.wait_for(load(host, artifacts.renamed_opset(9)), 60)
    answer = await host.score(host.model, ROWS, FOREVER)
    assert answer.tobytes() == expected(artifacts.renamed_opset(9))


async def test_unload_waits_for_requests_in_flight(
    host: ModelHost, handles: list[RunHandle], told: list[bool]
) -> None:
    description = await load(host, endless_on_demand())
    handles.append(RunHandle())
    model = host.model
    run = asyncio.create_task(host.score(model, ENDLESS, FOREVER, handles[0]))
    waiting = asyncio.create_task(host.score(model, ROWS, FOREVER))
    model.acquire()
    await eventually(lambda: host.model.runs == 2)
    unload = asyncio.create_task(host.unload())
    await eventually(lambda: host.state is ModelStage.UNLOADING)
    assert not told[-1]
    assert host.in_flight == 1
    assert host.description is description
    with pytest.raises(ModelNotLoaded, match="unloading"):
        _ = host.model
    with pytest.raises(ModelBusy):
        await host.unload()
    with pytest.raises(ModelBusy):
        await load(host, endless_on_demand())
    handles[0].stop()
    with pytest.raises(Cancelled):
        await run
    assert (await waiting).tobytes() == expected(artifacts.renamed_opset(13))
    await eventually(lambda: model.runs == 0)
    assert not unload.done()
    model.release()
    assert await unload is description
    assert host.state is ModelStage.EMPTY
    assert host.description is None
    assert host.in_flight == 0


async def test_unload_goes_on_when_its_caller_goes_away(
    host: ModelHost, handles: list[RunHandle]
) -> None:
    await load(host, endless_on_demand())
    handles.append(RunHandle())
    run = asyncio.create_task(host.score(host.model, ENDLESS, FOREVER, handles[0]))
    await eventually(lambda: host.model.runs == 1)
    unload = asyncio.create_task(host.unload())
    await eventually(lambda: host.state is ModelStage.UNLOADING)
    unload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unload
    assert host.state is ModelStage.UNLOADING
    handles[0].stop()
    with pytest.raises(Cancelled):
        await run
    await eventually(lambda: host.state is ModelStage.EMPTY)


async def test_late_request_is_dropped_before_it_runs(host: ModelHost, clock: MovedClock) -> None:
    await load(host, artifacts.two_column_tensor())
    with pytest.raises(DeadlineExceeded, match="before the model was run"):
        await host.score(host.model, ROWS, clock.monotonic())
    answer = await host.score(host.model, ROWS, clock.monotonic() + 0.001)
    assert answer.shape == (150,)


async def test_request_that_waits_past_its_deadline_never_runs(
    host: ModelHost, clock: MovedClock, handles: list[RunHandle]
) -> None:
    await load(host, endless_on_demand())
    handles += [RunHandle(), RunHandle()]
    first = asyncio.create_task(host.score(host.model, ENDLESS, FOREVER, handles[0]))
    await eventually(lambda: host.model.runs == 1)
    late = clock.monotonic() + 1
    second = asyncio.create_task(host.score(host.model, ENDLESS, late, handles[1]))
    await eventually(lambda: host.model.runs == 2)
    clock.seconds += 2
    handles[0].stop()
    with pytest.raises(Cancelled):
        await first
    # Had it begun, it would not end.
    with pytest.raises(DeadlineExceeded, match="before the model was run"):
        await second
    await eventually(lambda: host.model.runs == 0)


async def test_handle_stops_an_endless_run(host: ModelHost, handles: list[RunHandle]) -> None:
    await load(host, endless_on_demand())
    handles.append(RunHandle())
    run = asyncio.create_task(host.score(host.model, ENDLESS, FOREVER, handles[0]))
    await eventually(lambda: host.model.runs == 1)
    handles[0].stop()
    with pytest.raises(Cancelled, match="nobody waits"):
        await asyncio.wait_for(run, 60)
    await eventually(lambda: host.model.runs == 0)


async def test_caller_that_goes_away_stops_its_run(host: ModelHost) -> None:
    await load(host, endless_on_demand())
    run = asyncio.create_task(host.score(host.model, ENDLESS, FOREVER))
    await eventually(lambda: host.model.runs == 1)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await eventually(lambda: host.model.runs == 0)


async def test_model_in_use_by_a_run_nobody_waits_for_is_not_freed_under_it(
    host: ModelHost,
) -> None:
    await load(host, endless_on_demand())
    model = host.model
    run = asyncio.create_task(host.score(model, ENDLESS, FOREVER))
    await eventually(lambda: model.runs == 1)
    run.cancel()
    description = await host.unload()
    assert description is not None
    assert model.runs == 0


async def test_waiting_runs_are_limited(host: ModelHost, handles: list[RunHandle]) -> None:
    await load(host, endless_on_demand())
    handles.append(RunHandle())
    first = asyncio.create_task(host.score(host.model, ENDLESS, FOREVER, handles[0]))
    await eventually(lambda: host.model.runs == 1)
    others = [asyncio.create_task(host.score(host.model, ROWS, FOREVER)) for _ in range(3)]
    await eventually(lambda: host.model.runs == 4)
    with pytest.raises(Overloaded, match="4 runs wait") as caught:
        await host.score(host.model, ROWS, FOREVER)
    assert caught.value.retry_after_s > 0
    handles[0].stop()
    with pytest.raises(Cancelled):
        await first
    for answer in await asyncio.gather(*others):
        assert answer.tobytes() == expected(artifacts.renamed_opset(13))
    answer = await host.score(host.model, ROWS, FOREVER)
    assert answer.shape == (150,)


async def test_closing_waits_for_the_unload_under_way(
    clock: MovedClock, handles: list[RunHandle]
) -> None:
    host = ModelHost(clock=clock)
    await load(host, endless_on_demand())
    handles.append(RunHandle())
    run = asyncio.create_task(host.score(host.model, ENDLESS, FOREVER, handles[0]))
    await eventually(lambda: host.model.runs == 1)
    unload = asyncio.create_task(host.unload())
    await eventually(lambda: host.state is ModelStage.UNLOADING)
    closing = asyncio.create_task(host.close())
    handles[0].stop()
    await asyncio.wait_for(closing, 60)
    with pytest.raises(Cancelled):
        await run
    assert await unload is not None


async def test_many_replacements_under_load_mix_nothing_up(host: ModelHost) -> None:
    kinds = {
        "a": (artifacts.renamed_opset(13), expected(artifacts.renamed_opset(13))),
        "b": (artifacts.two_column_tensor(), expected(artifacts.two_column_tensor())),
        "c": (artifacts.slow(2), expected(artifacts.renamed_opset(13))),
    }
    stop, answered = asyncio.Event(), 0

    async def ask() -> None:
        nonlocal answered
        while not stop.is_set():
            model = host.model
            answer = await host.score(model, ROWS, FOREVER)
            assert answer.tobytes() == kinds[model.description.name][1]
            answered += 1
            await asyncio.sleep(0)

    await load(host, kinds["a"][0], name="a")
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(ask())
        for name in "bcacbabc" * 2:
            await load(host, kinds[name][0], name=name)
            before = answered
            await eventually(lambda before=before: answered > before)  # type: ignore[misc]
        stop.set()
    await eventually(lambda: host.model.runs == 0)
    assert len(WEIGHTS) == host.model.description.feature_count


async def test_a_run_on_the_event_loop_that_turns_out_to_be_slow_leaves_it(
    host: ModelHost, clock: MovedClock, handles: list[RunHandle]
) -> None:
    await load(host, endless_on_demand(0.001))
    model = host.model
    assert model.is_quick(1, clock.monotonic())
    handles.append(RunHandle())
    run = asyncio.create_task(host.score(model, ENDLESS, FOREVER, handles[0]))
    # Nothing runs here before the guard has ended that run.
    await eventually(lambda: model.runs == 1)
    assert not model.is_quick(1, clock.monotonic())
    clock.seconds += DISTRUST_S
    assert model.is_quick(1, clock.monotonic())
    answer = await host.score(model, ROWS, FOREVER)
    assert answer.tobytes() == expected(endless_on_demand(0.001))
    handles[0].stop()
    with pytest.raises(Cancelled):
        await run


async def test_the_guard_of_the_event_loop_sleeps_while_nothing_runs(
    host: ModelHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "LOOK_S", 0.001)
    await load(host, artifacts.two_column_tensor())
    for _ in range(2):
        await host.score(host.model, ROWS, FOREVER)
        await eventually(lambda: not host._guard._wanted.is_set())
