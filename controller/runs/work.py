"""The work on one run: one step after the other, each begun from what is written.

Whatever happens, the next one who takes the run goes on from the last write. Effects may therefore
be repeated, and are harmless then: the deployment is commanded with a request id, so that a late
command does not bring it back, and a chunk of results is stored under its number once.

Failpoints, passed before and after what they name: run-before-deploy, run-after-deploy,
run-before-score, run-after-score, run-before-chunk, run-after-chunk (the results are stored); and
the writes run-before-running, run-after-running, run-before-progress, run-after-progress,
run-before-collecting, run-after-collecting, run-before-succeeded, run-after-succeeded,
run-before-failed, run-after-failed, run-before-again, run-after-again, run-before-beat,
run-after-beat.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass

from trillium.errors import Code, RemoteError, TrilliumError, Unreachable

from ..deployments.document import PUBLISHED, Deployment, State, Target
from ..deployments.repository import Deployments
from ..deployments.verbs import Command, Verb
from ..failpoints import Failpoints
from ..predictors import Predictors
from ..store.port import StoreError
from .held import HeldRun, RunLost
from .labels import LabelCheck
from .repository import Runs
from .results import Chunk, Tally
from .run import Evaluation, Run, RunState, moved, progressed, tried_again
from .source import ScoringTable, Source, fitting_columns

log = logging.getLogger(__name__)

SCORE_S = 60.0
"""How long a predictor may take for one chunk."""
LOOK_AGAIN_S = 5.0
"""A deployment that is waited for is looked at so often even if nothing seems to have changed."""

_WORTH_ANOTHER_TRY = (
    Code.UNAVAILABLE,
    Code.DEADLINE_EXCEEDED,
    Code.ABORTED,
    Code.CANCELLED,
    Code.RESOURCE_EXHAUSTED,
    # The predictor has no model: its deployment is about to notice.
    Code.FAILED_PRECONDITION,
)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a run is tried again."""

    attempts: int = 10
    """Attempts in a row that may store nothing."""
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0

    def pause_s(self, fruitless: int) -> float:
        """The pause before another attempt, after that many failed ones."""
        return float(min(self.longest_pause_s, self.first_pause_s * 2 ** min(fruitless, 30)))


class Hopeless(Exception):
    """Trying again would not help. `str()` of it is for a person."""


class RunWork:
    """Carries out one run, while it is held."""

    def __init__(
        self,
        held: HeldRun,
        *,
        runs: Runs,
        deployments: Deployments,
        predictors: Predictors,
        source: Source,
        failpoints: Failpoints,
        patience: Patience,
    ) -> None:
        self._held = held
        self._runs = runs
        self._deployments = deployments
        self._predictors = predictors
        self._source = source
        self._failpoints = failpoints
        self._patience = patience
        self._table: ScoringTable | None = None

    async def apply(self) -> None:
        """Work until the run has ended. Raises RunLost, StoreError."""
        run = self._held.run
        if run.fruitless > self._patience.attempts:
            # Whoever worked on it died each time, and it may well be the reason.
            trouble = run.trouble or "the controller died in each of them"
            await self._fail(f"given up after {run.fruitless - 1} attempts: {trouble}")
        while not self._held.run.has_ended:
            try:
                await self._step()
            except (RunLost, StoreError):
                raise
            except Hopeless as error:
                await self._fail(str(error))
            except TrilliumError as error:
                if error.code in _WORTH_ANOTHER_TRY or isinstance(error, RemoteError):
                    await self._again(error.message)
                else:
                    await self._fail(error.message)
            except Exception:
                log.exception("a step of a run failed", extra={"run": self._held.run.id})
                await self._again("internal error; the controller's log has the details")

    async def _step(self) -> None:
        run = self._held.run
        match run.state:
            case RunState.PREPARING:
                if run.temporary:
                    await self._deploy()
                await self._addresses()
                await self._move(RunState.RUNNING)
            case RunState.RUNNING if run.rows_done < run.rows_total:
                await self._score()
            case RunState.RUNNING:
                await self._move(RunState.COLLECTING)
            case RunState.COLLECTING:
                evaluation, detail = await self._evaluate()
                await self._move(RunState.SUCCEEDED, evaluation=evaluation, detail=detail)
            case _:
                raise Hopeless(f"a run that is {run.state.value} cannot be worked on")

    async def _deploy(self) -> None:
        """Command the run's own deployment; once in its life, however often this is called."""
        run = self._held.run
        stored = await self._deployments.get(run.deployment)
        if stored is not None:
            there = stored.value
            if there.run != run.id and there.spec.target is not Target.ABSENT:
                raise Hopeless(f"there is a deployment {run.deployment!r} that is another's")
        model = await self._source.model_version(run.model, run.model_version)
        command = Command(Verb.LOAD, run.deployment, model.spec, f"run.{run.life}", run.id)
        self._failpoints.passed("run-before-deploy")
        await self._deployments.apply(command)
        self._failpoints.passed("run-after-deploy")

    async def _addresses(self) -> list[str]:
        """Where the run's model is served; waits until it is. Raises Hopeless if it will not be."""
        run = self._held.run
        while True:
            changed = self._deployments.changed()
            stored = await self._deployments.get(run.deployment)
            deployment = None if stored is None else stored.value
            if found := addresses_of(deployment, run):
                return found
            if reason := why_hopeless(deployment, run):
                raise Hopeless(reason)
            try:
                async with asyncio.timeout(LOOK_AGAIN_S):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _score(self) -> None:
        """Have the first chunk that is not stored yet scored, and store it."""
        run = self._held.run
        table = await self._read_table()
        number = run.rows_done // run.chunk_rows + 1
        rows = run.rows_of(number)
        addresses = await self._addresses()
        address = addresses[(number + run.fruitless) % len(addresses)]
        self._failpoints.passed("run-before-score")
        probabilities, digest = await self._predictors.score(
            address, table.rows[rows.start : rows.stop], timeout_s=SCORE_S
        )
        self._failpoints.passed("run-after-score")
        if digest != run.digest or len(probabilities) != len(rows):
            raise Unreachable(f"the predictor at {address} answered with another model")
        labels = table.labels[rows.start : rows.stop] if table.labels else None
        chunk = Chunk(rows.start, probabilities, labels)
        self._failpoints.passed("run-before-chunk")
        await self._runs.keep(run, number, chunk)
        self._failpoints.passed("run-after-chunk")
        await self._held.write(lambda run: progressed(run, rows.stop), "progress")

    async def _read_table(self) -> ScoringTable:
        run = self._held.run
        if self._table is None:
            table = await self._source.rows(run.dataset, run.dataset_version)
            if len(table.rows) != run.rows_total:
                text = f"dataset {run.dataset!r} has {len(table.rows)} rows now"
                raise Hopeless(f"{text}; it had {run.rows_total}")
            model = await self._source.model_version(run.model, run.model_version)
            data = await self._source.dataset(run.dataset, run.dataset_version)
            columns = list(fitting_columns(model, data))
            if columns != list(range(len(columns))):
                table = ScoringTable(table.rows[:, columns], table.labels)
            self._table = table
        return self._table

    async def _evaluate(self) -> tuple[Evaluation | None, str]:
        """The evaluation of the model by the results, and if a labeled dataset allows none, why.
        Raises Hopeless if some of them are missing."""
        run, tally, expected = self._held.run, Tally(), 1
        labels = LabelCheck(run.class_label, await self._source.classes(run.model))
        async with aclosing(self._runs.chunks(run)) as chunks:
            async for number, chunk in chunks:
                if number != expected or chunk.rows != run.rows_of(number):
                    break
                tally = tally.plus(chunk, run.class_label)
                labels = labels.plus(chunk)
                expected += 1
        if expected != run.chunk_count + 1:
            raise Hopeless(f"the store has lost chunk {expected} of the results")
        if not run.class_label:
            return None, ""
        return (None, labels.problem) if labels.problem else (tally.evaluation(run.class_label), "")

    async def _move(
        self, state: RunState, *, evaluation: Evaluation | None = None, detail: str = ""
    ) -> None:
        now = self._runs.now()
        await self._held.write(
            lambda run: moved(run, state, now, evaluation=evaluation, detail=detail), state.value
        )
        log.info("run moved", extra={"run": self._held.run.id, "state": state.value})

    async def _fail(self, detail: str) -> None:
        now = self._runs.now()
        failed = RunState.FAILED
        await self._held.write(lambda run: moved(run, failed, now, detail=detail), failed.value)
        log.info("run failed", extra={"run": self._held.run.id, "detail": detail})

    async def _again(self, trouble: str) -> None:
        """Begin another attempt after a pause, or give up."""
        fruitless = self._held.run.fruitless
        if fruitless >= self._patience.attempts:
            await self._fail(f"given up after {fruitless} attempts: {trouble}")
            return
        await self._held.write(lambda run: tried_again(run, trouble), "again")
        facts = {"run": self._held.run.id, "detail": trouble}
        log.info("run tried again", extra=facts)
        await asyncio.sleep(self._patience.pause_s(fruitless))


def addresses_of(deployment: Deployment | None, run: Run) -> list[str]:
    """Where the run's model is served by the deployment that it uses."""
    if deployment is None or (run.temporary and deployment.run != run.id):
        return []
    return [
        instance.address
        for instance in deployment.instances
        if instance.phase in PUBLISHED and instance.digest == run.digest
    ]


def why_hopeless(deployment: Deployment | None, run: Run) -> str:
    """Why a deployment that does not serve the run's model will not do so; "" if it may."""
    named = f"deployment {run.deployment!r}"
    if deployment is None or (run.temporary and deployment.run != run.id):
        return f"{named} is gone"
    if deployment.spec.target is not Target.LOADED:
        return f"{named} is {deployment.state.value}: somebody did not want it any more"
    if deployment.spec.digest != run.digest:
        return f"{named} was given another version of the model"
    if deployment.state is State.FAILED:
        return f"{named} failed: {deployment.detail}"
    if deployment.trouble:
        return f"{named} is not there: {deployment.trouble}"
    return ""
