"""A coalescer can mix up rows: many callers, everything changing, every answer checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from grpc import aio

from aggregator.plans.roster import Endpoint
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.aggregator.serving import (
    CALL_S,
    IRIS,
    Aggregated,
    FloatRows,
    aggregating,
    no_task_left,
    real_predictors,
    reference,
    taken_apart,
    unpacked,
)
from tests.artifacts import iris_rows
from tests.ports import free_ports
from tests.waiting import eventually

CLIENTS = 64
LOAD_S = 6.0
EXPECTED = {"answered", "cancelled", "PREDICTORS_FAILED", "DEADLINE_EXCEEDED"}


async def one_client(
    served: Aggregated,
    truth: FloatRows,
    is_over: Callable[[], bool],
    chance: random.Random,
    seen: Counter[str],
) -> None:
    rows = iris_rows()
    while not is_over():
        picked = [chance.randrange(len(rows)) for _ in range(chance.randint(1, 50))]
        labels = sorted(chance.sample(range(3), chance.randint(1, 3)))
        hasty = chance.random() < 0.15
        call = asyncio.ensure_future(
            served.predict(
                rows[picked],
                timeout=chance.uniform(0.001, 0.03) if hasty else CALL_S,
                class_labels=[IRIS[index] for index in labels],
            )
        )
        if chance.random() < 0.15:
            await asyncio.wait({call}, timeout=chance.uniform(0, 0.02))
            call.cancel()
        seen[await outcome(call, truth[np.ix_(picked, labels)], hasty)] += 1


async def outcome(call: asyncio.Future, wanted: FloatRows, hasty: bool) -> str:  # type: ignore[type-arg]
    """In a word what came of a call; "wrong" if the answer is not bit for bit the right one."""
    try:
        answer = await call
    except asyncio.CancelledError:
        return "cancelled"
    except aio.AioRpcError as error:
        if any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ()):
            failed = taken_apart(error)
            late = failed.code.name == "DEADLINE_EXCEEDED"
            return failed.reason if hasty or not late else f"late: {failed.message}"
        return error.code().name if hasty else f"{error.code().name}: {error.details()}"
    return "answered" if np.array_equal(unpacked(answer.probabilities), wanted) else "wrong"


async def restart_again_and_again(model: Path, listen: str, end: float, seen: Counter[str]) -> int:
    """A predictor that is up, gone, up again, until `end` but three times at least; how often it
    was up."""

    async def some_answers(count: int) -> None:
        enough = seen["answered"] + count
        await eventually(lambda: seen["answered"] >= enough)

    count = 0
    while time.monotonic() < end or count < 3:
        drain_s = 2.0 * (count % 2)
        async with running_predictor(PredictorConfig(listen, model, drain_s=drain_s)):
            await some_answers(200)
        count += 1
        await some_answers(50)
    return count


async def test_every_answer_under_load_is_right_while_a_replica_comes_and_goes(
    models: Path,
) -> None:
    truth = reference(models, "iris", IRIS, iris_rows())
    paths = [models / f"iris-{label}.onnx" for label in IRIS]
    seen: Counter[str] = Counter()
    async with no_task_left(), real_predictors(*paths) as running:
        spare = f"127.0.0.1:{free_ports(1)[0]}"
        endpoints = [
            *(Endpoint(label, each.address) for label, each in zip(IRIS, running, strict=True)),
            Endpoint("setosa", spare),
        ]
        async with aggregating(*endpoints) as served:
            end = time.monotonic() + LOAD_S
            restarting = asyncio.create_task(restart_again_and_again(paths[0], spare, end, seen))
            clients = [
                one_client(served, truth, restarting.done, random.Random(number), seen)
                for number in range(CLIENTS)
            ]
            await asyncio.gather(*clients)
            assert await restarting >= 3
            await served.until_idle()
            assert np.array_equal(await served.scores(iris_rows()), truth)
            await served.until_idle()
            await eventually(lambda: all(each.host.in_flight == 0 for each in running))
    assert set(seen) <= EXPECTED, seen
    assert seen["answered"] > 500, seen
    assert seen["cancelled"] > 10, seen
