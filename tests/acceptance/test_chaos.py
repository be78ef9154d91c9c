"""Predictors that are killed and stopped again and again under load: every answer is right, and no
call fails, as each class has a second replica.

A minute of it runs in CI; `TRILLIUM_CHAOS_S=600 make test-thorough ARGS="-k chaos"` for longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import aio

from tests.acceptance.test_processes import IRIS, Ensemble, ensemble
from tests.aggregator.serving import packed, reference, unpacked
from tests.freezing import freeze
from tests.waiting import eventually
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.aggregator.v1.aggregator_service_pb2_grpc import AggregatorServiceStub

CHAOS_S = float(os.environ.get("TRILLIUM_CHAOS_S", "60"))
CALLERS = 16
CALL_S = 60.0
"""Longer than anything here lasts: what is late has been lost."""
ANSWERS = 200
"""Calls that are answered between two blows."""

pytestmark = pytest.mark.thorough


async def call_again_and_again(
    stub: Any, models: Path, chance: random.Random, is_over: Callable[[], bool], seen: Counter[str]
) -> None:
    """Calls of one caller, each with rows that nobody else sends."""
    while not is_over():
        rows = np.array([[chance.uniform(0, 8) for _ in range(4)] for _ in range(3)], "<f4")
        try:
            answer = await stub.Predict(pb.PredictRequest(matrix=packed(rows)), timeout=CALL_S)
        except aio.AioRpcError as error:
            seen[f"{error.code().name}: {error.details()}"] += 1
            continue
        right = reference(models, "iris", IRIS, rows)
        # One row's result may differ in the last bit by how many others were in its batch.
        close = np.allclose(unpacked(answer.probabilities), right, rtol=0, atol=1e-6)
        seen["answered" if close else "wrong"] += 1


async def hurt_again_and_again(up: Ensemble, chance: random.Random, seen: Counter[str]) -> int:
    """Kill or stop one predictor after the other, each once all have recovered."""

    async def some_answers() -> None:
        enough = seen["answered"] + ANSWERS
        await eventually(lambda: seen["answered"] >= enough, CALL_S)

    async def all_are_ready() -> bool:
        return set(await up.states()) == {"ready"}

    # The ensemble serves as soon as each class has one predictor; its second one may still load.
    await eventually(all_are_ready, CALL_S)
    blows, end = 0, time.monotonic() + CHAOS_S
    while time.monotonic() < end or blows < 6:
        index = chance.randrange(len(up.predictors))
        victim = up.predictors[index]
        if blows % 2:
            freeze(victim.pid)
            # The other replica goes on meanwhile, and callers of this one wait.
            answered = seen["answered"]
            await eventually(lambda before=answered: seen["answered"] > before, CALL_S)  # type: ignore[misc]
            victim.signal(signal.SIGCONT)
        else:
            victim.signal(signal.SIGKILL)
            await victim.ended()
            await some_answers()
            await up.start_predictor(index)
        await eventually(all_are_ready, CALL_S)
        await some_answers()
        blows += 1
    return blows


async def test_chaos_among_predictors_fails_no_call(models: Path) -> None:
    seen: Counter[str] = Counter()
    chance = random.Random(1)
    async with ensemble(models, IRIS * 2) as up, aio.insecure_channel(up.address) as channel:
        stub: Any = AggregatorServiceStub(channel)
        hurting = asyncio.create_task(hurt_again_and_again(up, chance, seen))
        callers = [
            call_again_and_again(stub, models, random.Random(number), hurting.done, seen)
            for number in range(CALLERS)
        ]
        await asyncio.gather(*callers)
        assert await hurting >= 6
        assert list(seen) == ["answered"], seen
