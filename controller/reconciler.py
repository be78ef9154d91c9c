"""Brings what is to what is wanted: reads, looks, asks `step` what to do, does it, and reads again.

One task tends one slot for as long as there is something to do. Several controllers may do so at
once and each may die anywhere: every write is a compare-and-set, and every effect outside is either
harmless when repeated or names the attempt or container that it is meant for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

from controller import lifecycle
from controller.actions import Change, Create, Load, Remove, Rest, Unload
from controller.deployment import Deployment, Phase, Slot, State, Target, wanted
from controller.deployments import Deployments, Stored
from controller.failing import failed, refused
from controller.failpoints import Failpoints
from controller.looking import Looker
from controller.predictors import Artifact, Predictors
from controller.probing import Pace, Probes
from controller.runtime.port import (
    Container,
    ContainerRefused,
    ContainerSpec,
    Runtime,
    RuntimeUnreachable,
)
from controller.seen import ContainerState, Seen, SeenContainer
from controller.store.port import StoreError
from trillium.clock import Clock
from trillium.errors import Code, Overtaken, TrilliumError
from trillium.waking import first_of

log = logging.getLogger(__name__)

ROUND_S = 10.0
"""Everything is looked at so often even if nothing seems to have changed."""
LONGEST_REST_S = 5.0
TROUBLE_S = 1.0
"""Pause after the store or the runtime did not answer."""
LOAD_CALL_S = 300.0
LOG_LINES = 50
KEPT_AFTER_END = timedelta(days=1)
"""How long the record of a terminated deployment stays."""

_USUAL_PACE = Pace()
_REFUSALS = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED)


class Endings(Protocol):
    """Who knows whether aggregators have stopped asking an endpoint."""

    async def is_withdrawn(self, address: str) -> bool:
        """Whether every aggregator has confirmed that the endpoint is gone."""
        ...


class Reconciler:
    """Tends every slot of every deployment."""

    def __init__(
        self,
        deployments: Deployments,
        runtime: Runtime,
        predictors: Predictors,
        *,
        artifact: Callable[[Deployment, str], Awaitable[Artifact]],
        endings: Endings,
        clock: Clock,
        failpoints: Failpoints,
        image: str = "",
        probing: Pace = _USUAL_PACE,
    ) -> None:
        """`artifact` answers the model of that digest for a deployment; `image` is the image of
        new containers, empty for the runtime's own; `probing` says when a predictor is taken to
        hang."""
        self._deployments = deployments
        self._runtime = runtime
        self._predictors = predictors
        self._artifact = artifact
        self._endings = endings
        self._clock = clock
        self._failpoints = failpoints
        self._image = image
        self.looker = Looker(runtime, clock)
        self._probes = Probes(predictors, clock, probing, lambda key: self._tend_soon(*key))
        self._tending: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._kicks: dict[tuple[str, int], asyncio.Event] = {}
        self._stirred = asyncio.Event()
        self._listed = False
        self._unsettled: set[tuple[str, int]] = set()
        self._settled = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tend inside the context."""
        tasks = [
            asyncio.create_task(self._rounds()),
            asyncio.create_task(self._follow_runtime()),
            asyncio.create_task(self._deployments.follow()),
            asyncio.create_task(self._probes.run()),
        ]
        try:
            yield
        finally:
            for task in (*tasks, *self._tending.values()):
                task.cancel()
            await asyncio.gather(*tasks, *self._tending.values(), return_exceptions=True)

    async def first_look(self, within_s: float) -> None:
        """Wait until the runtime was looked at and every slot tells what was seen, so that nothing
        that an earlier controller wrote stands against what is.

        At most `within_s` seconds, and not for a runtime that does not answer.
        """
        try:
            async with asyncio.timeout(within_s):
                await self.looker.look()
                await self._settled.wait()
        except (TimeoutError, RuntimeUnreachable) as error:
            detail = str(error) or f"not done within {within_s:g} s"
            log.warning("not everything was looked at", extra={"detail": detail})

    async def _follow_runtime(self) -> None:
        async for _ in self._runtime.changes():
            self._stirred.set()

    async def _rounds(self) -> None:
        while True:
            changed = self._deployments.changed()
            self._stirred.clear()
            try:
                await self._round()
            except (StoreError, RuntimeUnreachable) as error:
                log.warning("round broken off", extra={"detail": str(error)})
                await asyncio.sleep(TROUBLE_S)
            except Exception:
                log.exception("round failed")
                await asyncio.sleep(TROUBLE_S)
            await first_of(changed.wait(), self._stirred.wait(), timeout_s=ROUND_S)

    async def _round(self) -> None:
        """Have every slot tended that may need it."""
        ended = []
        async for stored in self._deployments.all():
            if stored.deployment.state is State.TERMINATED:
                ended.append(stored)
            else:
                for index in range(len(stored.deployment.slots)):
                    self._tend_soon(stored.deployment.id, index)
        self._listed = True
        self._settle()
        if ended:
            await self._bury(ended)

    async def _bury(self, ended: list[Stored]) -> None:
        """Remove what came late for terminated deployments; forget those long gone."""
        left = {container.deployment for container in await self.looker.look()}
        for stored in ended:
            deployment = stored.deployment
            if deployment.id in left:
                for index in range(len(deployment.slots)):
                    self._tend_soon(deployment.id, index)
            elif deployment.updated and deployment.updated + KEPT_AFTER_END < self._clock.now():
                await self._deployments.forget(stored)

    def _tend_soon(self, id: str, index: int) -> None:
        key = (id, index)
        if key in self._tending:
            self._kicks[key].set()
            return
        if not self._listed:
            self._unsettled.add(key)
        self._kicks[key] = asyncio.Event()
        self._tending[key] = asyncio.create_task(self._tend_to_the_end(id, index))

    async def _tend_to_the_end(self, id: str, index: int) -> None:
        try:
            await self._tend(id, index)
        finally:
            # At once, and not when the task is seen to be done: a kick in between would be lost.
            del self._tending[id, index], self._kicks[id, index]

    async def _tend(self, id: str, index: int) -> None:
        """Take one action after the other until there is nothing to do."""
        kick = self._kicks[id, index]
        while True:
            kick.clear()
            try:
                rest = await self._act(id, index, kick)
            except (StoreError, RuntimeUnreachable) as error:
                facts = {"deployment": id, "slot": index, "detail": str(error)}
                log.warning("cannot tend now", extra=facts)
                rest = Rest(self._clock.now() + timedelta(seconds=TROUBLE_S))
            except Exception:
                log.exception("tending failed", extra={"deployment": id, "slot": index})
                rest = Rest(self._clock.now() + timedelta(seconds=TROUBLE_S))
            if rest is None:
                continue
            if rest.until is None and not kick.is_set():
                return
            await first_of(kick.wait(), timeout_s=self._seconds_to(rest.until))

    def _seconds_to(self, until: datetime | None) -> float:
        if until is None:
            return 0.0
        left_s = (until - self._clock.now()).total_seconds()
        return min(LONGEST_REST_S, max(0.01, left_s))

    async def _act(self, id: str, index: int, kick: asyncio.Event) -> Rest | None:
        """Read, look, and take one action; answers the rest that it asks for, if any."""
        stored = await self._deployments.get(id)
        if stored is None or index >= len(stored.deployment.slots):
            self._settle((id, index))
            self._probes.forget((id, index))
            return Rest()
        seen = await self._see(stored.deployment, index)
        action = lifecycle.step(stored.deployment, index, seen, self._clock.now())
        if not isinstance(action, Change | Remove):
            self._settle((id, index))
        match action:
            case Rest():
                return action
            case Change():
                await self._change(stored, index, action)
            case Create():
                await self._create(stored, index)
                # Should it be made but not running, it is not asked to start without a pause.
                return Rest(self._clock.now() + timedelta(seconds=0.05))
            case Remove(container_id):
                self._failpoints.passed("before-remove")
                await self._runtime.remove(container_id)
                self._failpoints.passed("after-remove")
            case Load():
                await self._load(stored, index, action, kick)
            case Unload():
                await self._unload(action)
        return None

    def _settle(self, *keys: tuple[str, int]) -> None:
        """Say of slots that they tell what is."""
        self._unsettled.difference_update(keys)
        if self._listed and not self._unsettled:
            self._settled.set()

    async def _see(self, deployment: Deployment, index: int) -> Seen:
        """Everything that concerns the slot, looked at after the document was read."""
        slot = deployment.slots[index]
        containers: list[SeenContainer] | None
        try:
            everything = await self.looker.look()
            containers = [
                _seen(container)
                for container in everything
                if container.deployment == deployment.id and container.slot == index
            ]
        except RuntimeUnreachable:
            containers = None
        address = slot.address
        for container in containers or ():
            if container.attempt == slot.attempt and container.address:
                address = container.address
        asked = address and slot.phase not in (Phase.ABSENT, Phase.BACKOFF, Phase.FAILED)
        draining = slot.phase is Phase.DRAINING
        key = (deployment.id, index)
        if slot.phase in lifecycle.PROBED:
            self._probes.follow(key, slot.container_id, slot.address)
        else:
            self._probes.forget(key)
        return Seen(
            containers,
            await self._predictors.look(address) if asked else None,
            draining and await self._endings.is_withdrawn(slot.address),
            self._probes.silent_since(key),
        )

    async def _change(self, stored: Stored, index: int, change: Change) -> None:
        slot = change.slot
        if change.logs_of:
            tail = await self._runtime.logs(change.logs_of, lines=LOG_LINES)
            slot = replace(slot, log_tail=tail)
        name = slot.phase.value
        self._failpoints.passed(f"before-write-{name}")
        written = await self._deployments.change_slot(stored, index, slot, change.cause)
        self._failpoints.passed(f"after-write-{name}")
        if written is not None:
            log.info("slot changed", extra=_facts(stored.deployment, index, slot, change.cause))

    async def _create(self, stored: Stored, index: int) -> None:
        deployment, slot = stored.deployment, stored.deployment.slots[index]
        spec = ContainerSpec(
            deployment=deployment.id,
            slot=index,
            attempt=slot.attempt,
            cpus=deployment.spec.cpus,
            memory_bytes=deployment.spec.memory_bytes,
            image=self._image,
        )
        self._failpoints.passed("before-create")
        try:
            await self._runtime.create(spec)
        except ContainerRefused as error:
            now = self._clock.now()
            given_up = failed(slot, deployment.spec, str(error), now, for_good=True)
            await self._change(stored, index, given_up)
        self._failpoints.passed("after-create")

    async def _load(self, stored: Stored, index: int, load: Load, kick: asyncio.Event) -> None:
        """Give the predictor its model, unless that is not wanted any more meanwhile."""
        deployment, slot = stored.deployment, stored.deployment.slots[index]
        artifact = await self._artifact(deployment, load.digest)
        self._failpoints.passed("before-load")
        loading = asyncio.create_task(
            self._predictors.load(load.address, artifact, timeout_s=LOAD_CALL_S, fence=load.order)
        )
        try:
            while not loading.done():
                kick.clear()
                await first_of(asyncio.wait((loading,)), kick.wait(), timeout_s=LONGEST_REST_S)
                if not loading.done() and not await self._still_meant(stored, index, load):
                    return
            await loading
        except TrilliumError as error:
            if error.code in _REFUSALS and not isinstance(error, Overtaken):
                refusal = refused(slot, deployment.spec, error.message, self._clock.now())
                await self._change(stored, index, refusal)
            else:
                log.info("load to be repeated", extra={"detail": error.message})
                await asyncio.sleep(0.2)
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        self._failpoints.passed("after-load")

    async def _still_meant(self, began: Stored, index: int, load: Load) -> bool:
        """Whether the model is still wanted where it was to go when the load began."""
        stored = await self._deployments.get(began.deployment.id)
        if stored is None:
            return False
        now = stored.deployment
        is_wanted = wanted(now.spec, index) is Target.LOADED
        same = now.slots[index] == began.deployment.slots[index]
        return is_wanted and same and now.spec.digest == load.digest

    async def _unload(self, unload: Unload) -> None:
        self._failpoints.passed("before-unload")
        try:
            await self._predictors.unload(unload.address, fence=unload.order)
        except TrilliumError as error:
            log.info("unload to be repeated", extra={"detail": error.message})
            await asyncio.sleep(0.2)
        self._failpoints.passed("after-unload")


def _seen(container: Container) -> SeenContainer:
    reason = "" if container.exit_code is None else f"exit code {container.exit_code}"
    if container.out_of_memory:
        reason = "it used more memory than it may"
    return SeenContainer(
        id=container.id,
        attempt=container.attempt,
        state=ContainerState(container.state.value),
        address=container.address,
        exit_reason=reason,
    )


def _facts(deployment: Deployment, index: int, slot: Slot, cause: str) -> dict[str, object]:
    return {
        "deployment": deployment.id,
        "slot": index,
        "attempt": slot.attempt,
        "phase": slot.phase.value,
        "cause": cause,
    }
