"""When a predictor is taken to hang, and when it is this process that stood still."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controller.config import from_command_line
from controller.deployments.document import Key
from controller.deployments.probing import SLACK_S, Probes, ProbingPolicy
from tests.controller.serving import MODEL, serving_flowers
from tests.freezing import freeze
from tests.runtime.serving import pids_with
from tests.waiting import eventually
from trillium.controller.v1 import deployment_pb2 as deployment_pb

KEY = ("a1", 0)
PACE = ProbingPolicy(interval_s=10.0, timeout_s=5.0, failures=3)


class StillClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self._time = datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self._time.timestamp()

    def now(self) -> datetime:
        return self._time

    def move(self, seconds: float) -> None:
        self._time += timedelta(seconds=seconds)


@dataclass
class Asked:
    """Predictors that answer as they are told, after so long."""

    clock: StillClock
    answers_: bool = True
    took_s: float = 5.0
    silent: list[Key] = field(default_factory=list)

    async def answers(self, address: str, timeout_s: float) -> bool:
        self.clock.move(self.took_s)
        return self.answers_


def probes_of(asked: Asked) -> Probes:
    probes = Probes(asked, asked.clock, PACE, asked.silent.append)
    probes.follow(KEY, "c1", "unix:/x")
    return probes


async def since(probes: Probes, count: int) -> datetime | None:
    for _ in range(count):
        await probes.probe()
    return probes.silent_since(KEY)


async def test_failures_in_a_row_are_counted_from_the_first_one() -> None:
    asked = Asked(StillClock(), answers_=False)
    probes, began = probes_of(asked), asked.clock.now()
    assert await since(probes, 2) is None
    assert asked.silent == []
    assert await since(probes, 1) == began
    assert await since(probes, 4) == began
    assert asked.silent == [KEY] * 5
    asked.answers_ = True
    assert await since(probes, 1) is None
    asked.answers_ = False
    assert await since(probes, 2) is None
    assert await since(probes, 1) == began + timedelta(seconds=5 * 8)


async def test_another_container_and_another_address_begin_anew() -> None:
    asked = Asked(StillClock(), answers_=False)
    probes = probes_of(asked)
    assert await since(probes, 3)
    probes.follow(KEY, "c1", "unix:/x")
    assert probes.silent_since(KEY)
    probes.follow(KEY, "c2", "unix:/x")
    assert probes.silent_since(KEY) is None
    probes.forget(KEY)
    assert await since(probes, 5) is None


async def test_failures_while_this_process_stood_still_reset_the_count() -> None:
    asked = Asked(StillClock(), answers_=False)
    probes = probes_of(asked)
    await since(probes, 2)
    asked.took_s = PACE.timeout_s + SLACK_S + 1
    assert await since(probes, 3) is None
    asked.took_s = PACE.timeout_s
    assert await since(probes, 2) is None
    assert await since(probes, 1)
    # What was sure before it stood still is not sure any more.
    asked.took_s = 60.0
    assert await since(probes, 1) is None


async def test_what_was_sure_before_this_process_stood_still_is_not_sure_any_more() -> None:
    asked = Asked(StillClock(), answers_=False)
    probes = probes_of(asked)
    assert await since(probes, 3)
    asked.clock.move(PACE.interval_s + PACE.timeout_s + SLACK_S)
    assert probes.silent_since(KEY)
    asked.clock.move(1)
    assert probes.silent_since(KEY) is None


def test_the_pace_is_a_setting() -> None:
    assert from_command_line([], {}).probing == ProbingPolicy(10.0, 5.0, 3)
    flags = ["--probe-interval-s=1", "--probe-timeout-s=0.5", "--probe-failures=7"]
    assert from_command_line(flags, {}).probing == ProbingPolicy(1.0, 0.5, 7)


@pytest.mark.timeout(240)
async def test_a_loaded_predictor_that_hangs_is_replaced(tmp_path: Path) -> None:
    pace = ProbingPolicy(interval_s=0.5, timeout_s=4.0, failures=2)
    async with serving_flowers(tmp_path, probing=pace) as up:
        before = (await up.load("a1", model=MODEL)).instances[0]
        (pid,) = pids_with(f"--listen={before.address}")
        freeze(pid)

        async def is_another() -> bool:
            told = await up.get("a1")
            attempt = told.instances[0].attempt
            return bool(attempt > 1 and told.state == deployment_pb.STATE_LOADED)

        await eventually(is_another, 180)
        causes = [event.cause for event in await up.events("a1")]
        assert "its predictor does not answer" in causes
        assert pids_with(f"--listen={before.address}") == []
