"""Names that stand for several predictors, which come and go behind them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from aggregator.plans.resolving import HostName, Unresolved
from aggregator.plans.roster import Endpoint
from predictor.app import RunningPredictor, running_predictor
from predictor.config import PredictorConfig
from tests.aggregator.fakes import FakePredictor, after
from tests.aggregator.fakes import running as running_fakes
from tests.aggregator.serving import Aggregated, aggregating, failure_of, no_task_left, state_name
from tests.artifacts import iris_rows, reference_positive_probabilities
from tests.waiting import eventually
from trillium.model.declared import DeclaredFacts

NAME = "predictor-a:50061"
ROW = [[0.25, 0.5, 0.75]]
OFTEN_S, RARELY_S = 0.1, 3600.0


class Directory:
    """A resolver that is told what names stand for."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = set(addresses)
        """What every name stands for; without any, look-ups fail."""
        self.asked: list[HostName] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def look_up(self, name: HostName) -> frozenset[str]:
        self.asked.append(name)
        await self.may_answer.wait()
        if not self.addresses:
            raise Unresolved(f"{name.host} is in no book")
        return frozenset(self.addresses)

    async def asked_again(self, times: int = 3) -> None:
        """Wait until so many more look-ups have begun."""
        wanted = len(self.asked) + times
        await eventually(lambda: len(self.asked) >= wanted)


@asynccontextmanager
async def following(
    directory: Directory, *fakes: FakePredictor, ready: bool = True, interval_s: float = OFTEN_S
) -> AsyncIterator[Aggregated]:
    """An aggregator that knows one name, and what there may be behind it."""
    async with no_task_left(), running_fakes(*fakes):
        directory.addresses |= {each.address for each in fakes}
        async with aggregating(
            Endpoint("a", NAME), ready=ready, resolver=directory, resolve_interval_s=interval_s
        ) as served:
            yield served


async def addresses(served: Aggregated) -> list[str]:
    return sorted(each.address for each in await served.listed())


def seems(label: str) -> FakePredictor:
    """A fake that answers, for ROW, a value of its own: 0.25, 0.5 or 0.75."""
    return FakePredictor("a", column="xyz".index(label))


class Replicas:
    """Real predictors on one port of several addresses, as containers of one service are; told
    apart by what they answer."""

    MODELS = ("setosa", "versicolor", "virginica")

    def __init__(self, models: Path, stack: AsyncExitStack) -> None:
        self._models = models
        self._stack = stack
        self._running: dict[int, AsyncExitStack] = {}
        self._port = 0
        row = iris_rows()[60:61]
        self.answers = {
            number: self._answer(label, row) for number, label in enumerate(self.MODELS, 2)
        }

    async def start(self, number: int) -> str:
        """Start the one at 127.0.0.`number`; answers its address."""
        model = self._models / f"iris-{self.MODELS[number - 2]}.onnx"
        listen = f"127.0.0.{number}:{self._port}"
        # They are all served as one class, but their models are different ones.
        said = DeclaredFacts(class_label="setosa", positive_column=1)
        config = PredictorConfig(listen=listen, model=model, declared=said, drain_s=5.0)
        stack = self._running[number] = await self._stack.enter_async_context(AsyncExitStack())
        running: RunningPredictor = await stack.enter_async_context(running_predictor(config))
        self._port = int(running.address.rpartition(":")[2])
        return running.address

    async def stop(self, number: int) -> None:
        """Drain it and have it gone."""
        await self._running.pop(number).aclose()

    def which(self, answer: Any) -> int:
        """Who gave an answer."""
        (who,) = [each for each, right in self.answers.items() if np.array_equal(right, answer)]
        return who

    def _answer(self, label: str, row: Any) -> Any:
        artifact = (self._models / f"iris-{label}.onnx").read_bytes()
        return reference_positive_probabilities(artifact, row, 1).reshape(1, 1)


async def test_replicas_come_and_go_behind_a_name_and_no_call_fails(models: Path) -> None:
    seen: Counter[int] = Counter()
    failures: list[str] = []
    async with no_task_left(), AsyncExitStack() as stack:
        replicas = Replicas(models, stack)
        first, second = await replicas.start(2), await replicas.start(3)
        directory = Directory(first, second)
        named = Endpoint("setosa", f"predictor-setosa:{first.rpartition(':')[2]}")
        options: dict[str, Any] = {"resolver": directory, "resolve_interval_s": OFTEN_S}
        served = await stack.enter_async_context(aggregating(named, **options))
        row = iris_rows()[60:61]

        async def call() -> None:
            while True:
                try:
                    seen[replicas.which(await served.scores(row))] += 1
                except grpc.aio.AioRpcError as error:
                    failures.append(str(error.details()))

        async def are_used(*numbers: int) -> None:
            seen.clear()
            await eventually(lambda: bool(failures) or all(seen[each] > 20 for each in numbers))
            assert failures == []

        calls = [asyncio.create_task(call()) for _ in range(8)]
        await are_used(2, 3)
        # One more, which is known before it is there.
        third = first.replace("127.0.0.2", "127.0.0.4")
        directory.addresses.add(third)
        await eventually(lambda: served.states_are("ready", "ready", "unavailable"))
        assert await replicas.start(4) == third
        await are_used(2, 3, 4)
        assert await addresses(served) == [first, second, third]
        # One that goes first and is forgotten then, and one the other way round.
        await replicas.stop(2)
        directory.addresses.discard(first)
        await eventually(lambda: served.states_are("ready", "ready"))
        await are_used(3, 4)
        directory.addresses.discard(second)
        await eventually(lambda: served.states_are("ready"))
        # Twice: what was in flight to the one that left is answered within the first time.
        await are_used(4)
        await are_used(4)
        assert not seen[3]
        await replicas.stop(3)
        # All of them are others at once.
        await replicas.start(2)
        directory.addresses = {first}
        await are_used(2)
        await eventually(lambda: served.states_are("ready"))
        assert await addresses(served) == [first]
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert failures == []
        await served.until_idle()


async def test_localhost_is_looked_up_and_found(models: Path) -> None:
    config = PredictorConfig(listen="127.0.0.1:0", model=models / "iris-setosa.onnx")
    async with running_predictor(config) as predictor:
        port = predictor.address.rpartition(":")[2]
        async with aggregating(Endpoint("setosa", f"localhost:{port}")) as served:
            assert await addresses(served) == [predictor.address]
            assert (await served.scores(iris_rows())).shape == (len(iris_rows()), 1)


async def test_the_same_answer_again_changes_nothing() -> None:
    fakes = seems("x"), seems("y")
    directory = Directory()
    async with following(directory, *fakes) as served:
        await eventually(lambda: served.states_are("ready", "ready"))
        before = await served.listed()
        await directory.asked_again(10)
        assert await served.listed() == before
        assert [each.stream_count for each in fakes] == [1, 1]


async def test_a_request_in_flight_is_finished_where_its_predictor_is_withdrawn() -> None:
    fakes = seems("x"), seems("y")
    gate = asyncio.Event()
    for each in fakes:
        each.script.append(after(gate))
    directory = Directory()
    async with following(directory, *fakes) as served:
        await eventually(lambda: served.states_are("ready", "ready"))
        call = asyncio.ensure_future(served.scores(ROW))
        await eventually(lambda: any(each.requests for each in fakes))
        (asked,) = [each for each in fakes if each.requests]
        directory.addresses.discard(asked.address)
        await eventually(lambda: served.states_are("ready"))
        assert not call.done()
        gate.set()
        assert (await call).tolist() == [[ROW[0][asked.column]]]
        assert sum(len(each.requests) for each in fakes) == 1


async def test_a_look_up_that_fails_keeps_what_works() -> None:
    fake = seems("x")
    directory = Directory()
    async with following(directory, fake) as served:
        directory.addresses.clear()
        await directory.asked_again()
        assert await addresses(served) == [fake.address]
        assert (await served.scores(ROW)).tolist() == [[0.25]]
        assert fake.stream_count == 1


async def test_what_is_dead_and_has_no_name_any_more_is_let_go() -> None:
    fake, other = seems("x"), seems("y")
    directory = Directory()
    async with following(directory, fake) as served:
        directory.addresses.clear()
        await fake.stop()
        await eventually(lambda: is_listed(served, NAME, "unavailable"))
        assert not await served.is_serving()
        failed = await failure_of(served.predict(ROW))
        assert (failed.reason, failed.missing[0].address) == ("PREDICTORS_FAILED", NAME)
        assert "predictor-a is in no book" in failed.message
        async with running_fakes(other):
            directory.addresses.add(other.address)
            await served.until_ready()
            assert await addresses(served) == [other.address]
            assert (await served.scores(ROW)).tolist() == [[0.5]]


async def test_calls_wait_for_the_first_look_up_and_fail_with_it() -> None:
    fake = seems("x")
    directory = Directory()
    directory.may_answer.clear()
    async with following(directory, fake, ready=False) as served:
        assert await is_listed(served, NAME, "connecting")
        call = asyncio.ensure_future(served.scores(ROW))
        await eventually(lambda: served.waiting_rows() == 1)
        directory.may_answer.set()
        assert (await call).tolist() == [[0.25]]
    nothing = Directory()
    nothing.may_answer.clear()
    async with following(nothing, ready=False) as served:
        failing = asyncio.ensure_future(failure_of(served.predict(ROW, timeout=60)))
        await eventually(lambda: served.waiting_rows() == 1)
        nothing.may_answer.set()
        assert "predictor-a is in no book" in (await failing).message


async def test_a_loss_has_the_name_looked_up_long_before_the_interval() -> None:
    fake, other = seems("x"), seems("y")
    directory = Directory()
    async with following(directory, fake, interval_s=RARELY_S) as served, running_fakes(other):
        directory.addresses = {other.address}
        # After a few looks that brought nothing new the next one is far away.
        await fake.stop()
        await served.until_ready()
        await eventually(lambda: is_listed(served, other.address, "ready"))
        assert (await served.scores(ROW)).tolist() == [[0.5]]


async def test_what_works_stays_until_something_new_does() -> None:
    fake, other = seems("x"), seems("y")
    directory = Directory()
    async with following(directory, fake) as served, running_fakes(other):
        other.may_describe.clear()
        directory.addresses = {other.address}
        await eventually(lambda: is_listed(served, other.address, "connecting"))
        await directory.asked_again()
        assert (await served.scores(ROW)).tolist() == [[0.25]]
        other.may_describe.set()
        await eventually(lambda: is_alone(served, other.address))
        assert (await served.scores(ROW)).tolist() == [[0.5]]


async def test_addresses_are_not_looked_up() -> None:
    fake = seems("x")
    directory = Directory()
    async with running_fakes(fake):
        endpoints = fake.endpoint, Endpoint("a", "unix:/nowhere"), Endpoint("a", "[::1]:1")
        async with aggregating(*endpoints, resolver=directory) as served:
            assert await addresses(served) == sorted(each.address for each in endpoints)
            assert (await served.scores(ROW)).tolist() == [[0.25]]
    assert directory.asked == []


async def is_listed(served: Aggregated, address: str, state: str) -> bool:
    listed = {each.address: state_name(each) for each in await served.listed()}
    return listed.get(address) == state


async def is_alone(served: Aggregated, address: str) -> bool:
    return await addresses(served) == [address]
