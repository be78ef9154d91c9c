"""Brings ensembles to what is desired: reads, decides, writes or commands, and reads again.

`steps` decides. Nothing here touches the world: what an ensemble needs is asked of deployments,
which the reconciler tends. One task tends all ensembles, one after the other, since each step is no
more than a write.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from trillium.clock import Clock
from trillium.errors import (
    DeploymentExists,
    DeploymentNotFound,
    IllegalStep,
    RecordUnreadable,
    Superseded,
)
from trillium.server.tasks import Supervisor
from trillium.waking import first_of

from ..deployments.repository import Deployments
from ..deployments.verbs import Command
from ..failpoints import Failpoints
from ..store.codec import to_milliseconds
from ..store.port import StoreError
from ..store.records import Followed, Stored
from .document import EnsembleDocument
from .owned import OwnedDeployments
from .repository import EnsembleRepository
from .steps import Commands, Forget, Pause, Write, ended, step, without_hold

log = logging.getLogger(__name__)

ROUND_S = 30.0
"""Every ensemble is looked at at this interval even if no change was noticed."""
TROUBLE_S = 1.0
"""Pause after the store did not answer."""
_MOST_STEPS = 50
"""Steps for one ensemble before the next one has its turn."""


class EnsembleKeeper:
    """Tends every ensemble."""

    def __init__(
        self,
        ensembles: EnsembleRepository,
        deployments: Deployments,
        clock: Clock,
        failpoints: Failpoints,
        on_failing: Callable[[str, bool], None] = lambda task, failing: None,
    ) -> None:
        """`on_failing` is that of a Supervisor."""
        self._ensembles = ensembles
        self._deployments = deployments
        self._clock = clock
        self._failpoints = failpoints
        self._on_failing = on_failing
        self._owned = OwnedDeployments(deployments)
        self._known = Followed(ensembles, ())
        self._pending: set[str] = set()
        """EnsembleRepository to tend, as they have changed, or one of their deployments has."""
        self._due: dict[str, datetime] = {}
        """When each ensemble is to be tended, though nothing may have changed."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tend inside the context."""
        async with Supervisor(self._on_failing) as tasks:
            tasks.keep("keeper of ensembles", self._rounds)
            tasks.keep("watch of the ensembles", self._ensembles.follow)
            yield

    async def _rounds(self) -> None:
        next_round = self._clock.monotonic()
        while True:
            changed = self._deployments.changed(), self._ensembles.changed()
            try:
                await self._look()
                if self._clock.monotonic() >= next_round:
                    self._pending |= {*self._known.values, *self._owned.owners}
                    next_round = self._clock.monotonic() + ROUND_S
                now = self._clock.now()
                self._pending |= {id for id, due in self._due.items() if due <= now}
                while self._pending:
                    await self._tend_safely(min(self._pending))
            except StoreError as error:
                log.warning("ensembles not tended", extra={"detail": str(error)})
                next_round = self._clock.monotonic()
                await asyncio.sleep(TROUBLE_S)
                continue
            left_s = next_round - self._clock.monotonic()
            if self._due:
                until_due = (min(self._due.values()) - self._clock.now()).total_seconds()
                left_s = min(left_s, until_due)
            waits = [each.wait() for each in changed]
            await first_of(*waits, timeout_s=max(0.01, left_s))

    async def _look(self) -> None:
        """Note which ensembles have changed. The deployments are read first: see `steps`."""
        self._pending |= await self._owned.look()
        self._pending |= await self._known.look()

    async def _tend_safely(self, id: str) -> None:
        """Tend one; what is wrong with it keeps the others from nothing."""
        self._pending.discard(id)
        try:
            await self._tend(id)
        except StoreError:
            raise
        except Exception:
            log.exception("ensemble not tended", extra={"ensemble": id})
            self._again_later(id)

    def _again_later(self, id: str) -> None:
        self._due[id] = self._clock.now() + timedelta(seconds=TROUBLE_S)

    async def _tend(self, id: str) -> None:
        """Take one step after the other until there is nothing to do."""
        for _ in range(_MOST_STEPS):
            self._pending.discard(id)
            self._due.pop(id, None)
            owned = self._owned.of(id)
            try:
                stored = await self._ensembles.get(id)
            except RecordUnreadable:
                # Its deployments are left as they are: who could read it might want them.
                return
            if stored is None:
                if not await self._carry_out(ended(id, owned)):
                    self._again_later(id)
                return
            taken = step(stored.value, owned, to_milliseconds(self._clock.now()))
            match taken:
                case Pause(until):
                    if until is not None:
                        self._due[id] = until
                    return
                case Write(after, cause):
                    await self._write(stored, after, cause)
                case Forget():
                    await self._ensembles.delete(id, stored.rev)
                case Commands(commands):
                    if not await self._carry_out(commands, stored):
                        break
            await self._look()
        self._again_later(id)

    async def _write(
        self, stored: Stored[EnsembleDocument], after: EnsembleDocument, cause: str
    ) -> None:
        self._failpoints.passed("before-ensemble-write")
        written = await self._ensembles.put(stored.id, after, stored.rev)
        self._failpoints.passed("after-ensemble-write")
        if written is not None:
            serving = {str(each.revision): each.percent for each in after.serving}
            facts = {"ensemble": stored.id, "cause": cause, "serving": serving}
            log.info("ensemble changed", extra=facts)

    async def _carry_out(
        self, commands: tuple[Command, ...], stored: Stored[EnsembleDocument] | None = None
    ) -> bool:
        """Whether all commands were carried out; else they are to be repeated after a pause."""
        done = True
        for command in commands:
            self._failpoints.passed("before-ensemble-command")
            facts = {"deployment": command.deployment}
            try:
                await self._deployments.apply(command)
            except (IllegalStep, DeploymentExists) as error:
                log.warning("command refused", extra={**facts, "detail": str(error)})
                if stored is not None:
                    # Somebody else has a deployment of that id: another one is taken.
                    other = without_hold(stored.value, command.deployment)
                    await self._ensembles.put(stored.id, other, stored.rev)
                return False
            except (DeploymentNotFound, Superseded, RecordUnreadable) as error:
                log.info("command will be repeated", extra={**facts, "detail": str(error)})
                done = False
            self._failpoints.passed("after-ensemble-command")
        return done
