"""What the reconciler does in the world for one instance: looks, writes, and acts on containers.

Several controllers may do so at once and each may die anywhere: every write is a compare-and-set,
and every effect outside is either harmless when repeated or names the attempt or container that it
is meant for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Protocol

from trillium.clock import Clock
from trillium.errors import Code, ModelNotFound, Overtaken, TrilliumError
from trillium.server.tasks import background
from trillium.waking import first_of

from ..failpoints import Failpoints
from ..predictors import Artifact, Predictors
from ..runtime.port import Container, ContainerRefused, ContainerSpec, Runtime, RuntimeUnreachable
from ..seen import Seen, SeenContainer, SeenState
from ..store.records import Stored
from . import lifecycle
from .actions import Action, Change, Create, Load, Remove, Rest, Unload
from .document import Deployment, Instance, InstancePhase, Key, Target, wanted
from .failing import failed, refused
from .inventory import Inventory
from .probing import Probes
from .repository import Deployments

log = logging.getLogger(__name__)

LOAD_CALL_S = 300.0
LOG_LINES = 50
LOGS_S = 2.0
CHECK_S = 5.0
"""How often a load in flight checks whether its model is still the right one."""
_FIRST_PACE_S, _LONGEST_PACE_S = 0.05, 5.0
_REPEAT_PAUSE_S = 0.2
_REFUSALS = (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.RESOURCE_EXHAUSTED)


class WithdrawalCheck(Protocol):
    """Knows whether aggregators have stopped asking an endpoint."""

    async def is_withdrawn(self, address: str) -> bool:
        """Whether every aggregator has confirmed that the endpoint is gone."""
        ...


@dataclass(frozen=True, slots=True)
class ReconcilerPorts:
    """What the reconciler works on."""

    deployments: Deployments
    runtime: Runtime
    predictors: Predictors
    artifact: Callable[[Deployment, str], Awaitable[Artifact]]
    """Returns the model of that digest for a deployment."""
    withdrawals: WithdrawalCheck
    clock: Clock
    failpoints: Failpoints
    image: str = ""
    """Image of new containers; empty for the runtime's own."""


class Effects:
    """Looks at one instance and carries out its actions."""

    def __init__(self, ports: ReconcilerPorts, inventory: Inventory, probes: Probes) -> None:
        self._ports = ports
        self._inventory = inventory
        self._probes = probes
        self._last: dict[Key, tuple[Action, int]] = {}
        """What the runtime was last asked for each instance, and how often again."""

    async def carry_out(
        self, action: Action, stored: Stored[Deployment], index: int, kick: asyncio.Event
    ) -> Rest | None:
        """Carry out an action; returns the pause before the next one, if there is one."""
        match action:
            case Rest():
                return action
            case Change():
                await self.change(stored, index, await self.with_logs(action))
            case Create():
                await self._create(stored, index)
                return self._pace(action, stored.id, index)
            case Remove(container_id):
                self._ports.failpoints.passed("before-remove")
                await self._ports.runtime.remove(container_id)
                self._ports.failpoints.passed("after-remove")
                return self._pace(action, stored.id, index)
            case Load():
                return await self._load(stored, index, action, kick)
            case Unload():
                return await self._unload(action)
        return None

    def _pace(self, action: Action, id: str, index: int) -> Rest:
        """The pause after an action of the runtime, longer each time that it is repeated: a
        container may be asked for that only waits for room, or stay listed though removed. Changes
        of containers end it."""
        last, times = self._last.get((id, index), (None, 0))
        times = times + 1 if last == action else 0
        self._last[id, index] = action, times
        return self._pause(min(_LONGEST_PACE_S, _FIRST_PACE_S * 2.0 ** min(times, 32)))

    def forget(self, key: Key) -> None:
        """Nothing is done for an instance any more."""
        self._probes.forget(key)
        self._last.pop(key, None)

    def _pause(self, seconds: float) -> Rest:
        return Rest(self._ports.clock.now() + timedelta(seconds=seconds))

    async def see(self, deployment: Deployment, index: int) -> Seen:
        """Everything that concerns the instance, looked at after the document was read."""
        instance = deployment.instances[index]
        containers: list[SeenContainer] | None
        try:
            found = (await self._inventory.look()).get((deployment.id, index), ())
            containers = [_seen(container) for container in found]
        except RuntimeUnreachable:
            containers = None
        address = instance.address
        for container in containers or ():
            if container.attempt == instance.attempt and container.address:
                address = container.address
        is_asked = address and instance.phase not in (
            InstancePhase.ABSENT,
            InstancePhase.BACKOFF,
            InstancePhase.FAILED,
        )
        draining = instance.phase is InstancePhase.DRAINING
        key = (deployment.id, index)
        if instance.phase in lifecycle.PROBED:
            self._probes.follow(key, instance.container_id, instance.address)
        else:
            self._probes.forget(key)
        return Seen(
            containers,
            await self._ports.predictors.look(address) if is_asked else None,
            draining and await self._ports.withdrawals.is_withdrawn(instance.address),
            self._probes.silent_since(key),
        )

    async def with_logs(self, change: Change) -> Change:
        """The change with the last lines of its container, if it has one and they can be had: an
        engine that does not answer holds up no recovery."""
        if not change.logs_of:
            return change
        try:
            async with asyncio.timeout(LOGS_S):
                tail = await self._ports.runtime.logs(change.logs_of, lines=LOG_LINES)
        except (RuntimeUnreachable, TimeoutError) as error:
            why = str(error) or f"no answer within {LOGS_S:g} s"
            tail = f"[its log could not be read: {why}]"
        return replace(change, instance=replace(change.instance, log_tail=tail))

    async def change(self, stored: Stored[Deployment], index: int, change: Change) -> None:
        """Write a change of the deployment as it was read; no effect if it has changed since."""
        instance = change.instance
        name = instance.phase.value
        self._ports.failpoints.passed(f"before-write-{name}")
        written = await self._ports.deployments.change_instance(
            stored, index, instance, change.cause
        )
        self._ports.failpoints.passed(f"after-write-{name}")
        if written is not None:
            log.info("instance changed", extra=_facts(stored.value, index, instance, change.cause))

    async def _create(self, stored: Stored[Deployment], index: int) -> None:
        deployment, instance = stored.value, stored.value.instances[index]
        spec = ContainerSpec(
            deployment=deployment.id,
            instance=index,
            attempt=instance.attempt,
            cpus=deployment.spec.cpus,
            memory_bytes=deployment.spec.memory_bytes,
            image=self._ports.image,
        )
        self._ports.failpoints.passed("before-create")
        try:
            await self._ports.runtime.create(spec)
        except ContainerRefused as error:
            now = self._ports.clock.now()
            given_up = failed(instance, deployment.spec, str(error), now, for_good=True)
            await self.change(stored, index, given_up)
        self._ports.failpoints.passed("after-create")

    async def _load(
        self, stored: Stored[Deployment], index: int, load: Load, kick: asyncio.Event
    ) -> Rest | None:
        """Give the predictor its model, unless the spec changes meanwhile."""
        deployment, instance = stored.value, stored.value.instances[index]
        try:
            artifact = await self._ports.artifact(deployment, load.digest)
        except ModelNotFound as error:
            gone = refused(instance, deployment.spec, error.message, self._ports.clock.now())
            await self.change(stored, index, gone)
            return None
        self._ports.failpoints.passed("before-load")
        call = self._ports.predictors.load(
            load.address, artifact, timeout_s=LOAD_CALL_S, fence=load.order
        )
        try:
            async with background(f"load of {deployment.id}/{index}", call) as loading:
                while not loading.done():
                    kick.clear()
                    await first_of(asyncio.wait((loading,)), kick.wait(), timeout_s=CHECK_S)
                    if not loading.done() and not await self._still_meant(stored, index, load):
                        return None
                await loading
        except TrilliumError as error:
            if error.code not in _REFUSALS or isinstance(error, Overtaken):
                log.info("load will be repeated", extra={"detail": error.message})
                return self._pause(_REPEAT_PAUSE_S)
            refusal = refused(instance, deployment.spec, error.message, self._ports.clock.now())
            await self.change(stored, index, refusal)
        self._ports.failpoints.passed("after-load")
        return None

    async def _still_meant(self, began: Stored[Deployment], index: int, load: Load) -> bool:
        """Whether the instance is still to have the model, as when the load began."""
        stored = await self._ports.deployments.get(began.value.id)
        if stored is None:
            return False
        now = stored.value
        is_target = wanted(now.spec, index) is Target.LOADED
        same = now.instances[index] == began.value.instances[index]
        return is_target and same and now.spec.digest == load.digest

    async def _unload(self, unload: Unload) -> Rest | None:
        self._ports.failpoints.passed("before-unload")
        try:
            await self._ports.predictors.unload(unload.address, fence=unload.order)
        except TrilliumError as error:
            log.info("unload will be repeated", extra={"detail": error.message})
            return self._pause(_REPEAT_PAUSE_S)
        self._ports.failpoints.passed("after-unload")
        return None


def _seen(container: Container) -> SeenContainer:
    reason = "" if container.exit_code is None else f"exit code {container.exit_code}"
    if container.out_of_memory:
        reason = "it used more memory than it may"
    return SeenContainer(
        id=container.id,
        attempt=container.attempt,
        state=SeenState(container.state.value),
        address=container.address,
        exit_reason=reason,
    )


def _facts(deployment: Deployment, index: int, instance: Instance, cause: str) -> dict[str, object]:
    return {
        "deployment": deployment.id,
        "instance": index,
        "attempt": instance.attempt,
        "phase": instance.phase.value,
        "cause": cause,
    }
