"""A store whose controllers die one after the other, and the next one heals it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import grpc

from tests.acceptance.controllers import Control, controlling
from trillium.controller.v1 import deployment_pb2 as deployment_pb

PATIENCE_S = 120.0
"""Within so long of the next controller's start, all must be well. How long it took is printed: ten
seconds at most where nothing else runs."""

WANTED = (deployment_pb.TARGET_CREATED, deployment_pb.TARGET_LOADED)


class Yard(Protocol):
    """Where the predictors of one chain run, and what is there."""

    options: Sequence[str]
    """What its controllers are told."""
    options_to_refuse: Sequence[str]
    """What they are told instead, where a container with limits is to be refused."""
    refusal: str
    """What is then said."""
    lasts: bool
    """Whether what runs outlives its controller."""

    async def everything(self, controller: int) -> list[str]:
        """All that is left of predictors, running or not; `controller` is the one that runs now."""
        ...

    async def current(self, instance: deployment_pb.Instance) -> list[str]:
        """What runs for an instance, told as `everything` tells it."""
        ...

    async def left_by(self, dead: Sequence[int]) -> list[str]:
        """What ought to have ended with these controllers, and has not."""
        ...

    async def survivors(self) -> list[str]:
        """What runs on now that a controller is dead, as it ought to."""
        ...

    async def kill(self, instance: deployment_pb.Instance) -> None:
        """Kill the predictor."""
        ...


@dataclass
class Chain:
    """A store whose controllers die one after the other."""

    points: Sequence[str]
    do: Callable[[Chain, Control], Awaitable[None]]
    """Goes on until the controller is dead."""
    check: Callable[[Chain, Control], Awaitable[None]]
    """Whether everything is as it was asked; may raise when the controller dies meanwhile."""
    yard: Yard
    is_refused: bool = False
    """Whether containers with limits are to be refused."""
    heals_each: bool = False
    """Whether a controller that lives heals each death, before another one dies."""
    is_whole: bool = True
    """Whether all has been well since the last death."""
    dead: list[int] = field(default_factory=list)
    """Controllers that killed themselves."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the next controller's start for each recovery that was not cut short."""
    target: int | None = None
    """What was wanted last of the deployment."""
    before: int | None = None
    """What was wanted before that; it may still be, if the last call found the controller dying."""
    kept: list[str] = field(default_factory=list)
    """What ran and was wanted when the last controller died."""
    adopted: int = 0
    """How often the next one made all well with that."""
    run: str = ""
    """The run that was ordered last."""
    answered: bool = False
    """Whether its order was answered."""
    runs: int = 0
    attempt: int = 0

    async def apply(self, store: str) -> None:
        for point in self.points:
            async with self._controlling(store, point) as control:
                await self._recover(control, point)
                died_early = control.has_died
                if not died_early:
                    await asyncio.wait_for(self.do(self, control), PATIENCE_S)
                assert await control.server.ended() == -signal.SIGKILL, control.server.stderr
                self.dead.append(control.server.pid)
                self.is_whole = False
                kept = await self.yard.survivors() if self.target in WANTED else []
                # It may have made something, but whoever only recovers ends nothing that is wanted.
                assert not died_early or set(self.kept) <= set(kept), control.server.stderr
                self.kept = kept
            if self.heals_each or len(self.dead) == len(self.points):
                async with self._controlling(store) as control:
                    await self._recover(control, "")
                    assert not control.has_died, control.server.stderr
                assert await self.yard.left_by((*self.dead, control.server.pid)) == []

    def _controlling(self, store: str, point: str = "") -> AbstractAsyncContextManager[Control]:
        options = self.yard.options_to_refuse if self.is_refused else self.yard.options
        return controlling(store, *options, failpoint=point)

    async def _recover(self, control: Control, point: str) -> None:
        """Wait until all is well, or until the controller has killed itself again."""
        trouble: BaseException | None = None
        while time.monotonic() - control.began < PATIENCE_S:
            try:
                await self.check(self, control)
                assert await self.yard.left_by(self.dead) == []
                if not self.is_whole:
                    self.recoveries.append(time.monotonic() - control.began)
                    self.adopted += len(self.kept)
                self.is_whole = True
                return
            except (AssertionError, grpc.aio.AioRpcError) as error:
                trouble = error
            if control.has_died:
                assert point
                return
            await asyncio.sleep(0.02)
        died = f"not healed after {self.points[: len(self.dead)][-1:]}"
        raise AssertionError(f"{died}: {control.server.stderr}") from trouble
