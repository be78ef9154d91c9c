"""Stand-ins that tests of runs steer: a clock, a catalog, a runtime, answers held back."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from controller.deployments.document import Deployment, Spec
from controller.failpoints import Failpoints
from controller.predictors import Artifact, Predictors
from controller.runs.labels import KnownClasses
from controller.runs.source import ScoringData, ScoringModel, ScoringTable
from controller.runtime.port import Container, ContainerSpec, ContainerState, Server
from controller.runtime.wakes import RuntimeWatches
from controller.store.codec import to_milliseconds
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.artifacts import iris_rows, is_setosa, two_column_tensor
from trillium.errors import DatasetNotFound, ModelNotFound
from trillium.model.declared import DeclaredFacts
from trillium.rows import Probabilities, Rows

NAMES = ("sepal length", "sepal width", "petal length", "petal width")


class MovableClock:
    """The machine's clocks, as far ahead as the test wants."""

    def __init__(self) -> None:
        self._ahead = timedelta()
        self._stopped: tuple[float, datetime] | None = None

    def monotonic(self) -> float:
        monotonic = time.monotonic() if self._stopped is None else self._stopped[0]
        return monotonic + self._ahead.total_seconds()

    def now(self) -> datetime:
        now = datetime.now(UTC) if self._stopped is None else self._stopped[1]
        return to_milliseconds(now) + self._ahead

    def move(self, seconds: float) -> None:
        self._ahead += timedelta(seconds=seconds)

    def stop(self) -> None:
        """From here on only `move` moves it, however slow the machine is."""
        self._stopped = time.monotonic(), datetime.now(UTC)


class Mortal(Failpoints):
    """Dies at the armed point: whatever passes there, or anywhere afterwards, gets no further."""

    def __init__(self, name: str = "", count: int = 1) -> None:
        self._armed = name
        self._count = count
        self.died = asyncio.Event()

    async def reached(self) -> None:
        """Wait until it is dead."""
        async with asyncio.timeout(60):
            await self.died.wait()

    def passed(self, name: str) -> None:
        if name == self._armed:
            self._count -= 1
            if not self._count:
                self.died.set()
        if self.died.is_set():
            raise asyncio.CancelledError


class Catalog:
    """Implements `controller.runs.source.Source` with what the test puts in."""

    def __init__(self) -> None:
        self.models: dict[str, list[ScoringModel]] = {}
        self.classes_of: dict[str, KnownClasses] = {}
        self.artifacts: dict[str, bytes] = {}
        self.datasets: dict[str, list[tuple[ScoringData, ScoringTable]]] = {}

    def add_model(self, name: str, artifact: bytes, label: str = "setosa") -> ScoringModel:
        digest = hashlib.sha256(artifact).hexdigest()
        versions = self.models.setdefault(name, [])
        spec = Spec(name, len(versions) + 1, digest, label)
        self.artifacts[digest] = artifact
        versions.append(ScoringModel(spec, len(NAMES), NAMES))
        return versions[-1]

    def add_dataset(
        self,
        name: str,
        rows: Rows,
        labels: Sequence[str] | None = None,
        names: tuple[str, ...] = NAMES,
    ) -> None:
        count, width = rows.shape
        versions = self.datasets.setdefault(name, [])
        data = ScoringData(name, len(versions) + 1, count, width, names, labels is not None)
        versions.append((data, ScoringTable(rows, None if labels is None else tuple(labels))))

    async def model_version(self, model: str, version: int) -> ScoringModel:
        for each in reversed(self.models.get(model, [])):
            if version in (0, each.spec.version):
                return each
        raise ModelNotFound(f"there is no model {model!r} version {version}")

    async def classes(self, model: str) -> KnownClasses:
        own = (await self.model_version(model, 0)).spec.class_label
        return self.classes_of.get(model, KnownClasses("", (own,), are_all=False))

    async def dataset(self, dataset: str, version: int) -> ScoringData:
        return self._dataset(dataset, version)[0]

    async def rows(self, dataset: str, version: int) -> ScoringTable:
        return self._dataset(dataset, version)[1]

    def _dataset(self, dataset: str, version: int) -> tuple[ScoringData, ScoringTable]:
        for each in reversed(self.datasets.get(dataset, [])):
            if version in (0, each[0].version):
                return each
        raise DatasetNotFound(f"there is no dataset {dataset!r} version {version}")

    async def artifact(self, deployment: Deployment, digest: str) -> Artifact:
        content = self.artifacts[digest]
        spec = deployment.spec
        return Artifact(
            spec.model,
            digest,
            content,
            DeclaredFacts(class_label=spec.class_label, positive_column=1),
        )


def iris_catalog() -> Catalog:
    """The model "iris-setosa" and the datasets "iris" (labelled) and "bare" (not)."""
    catalog = Catalog()
    catalog.add_model("iris-setosa", two_column_tensor())
    labels = ["setosa" if each else "other" for each in is_setosa()]
    catalog.add_dataset("iris", iris_rows(), labels)
    catalog.add_dataset("bare", iris_rows())
    return catalog


class InProcessRuntime:
    """Implements `controller.runtime.port.Runtime` with predictors in this process."""

    def __init__(self) -> None:
        self._containers: dict[str, tuple[Container, asyncio.Event, asyncio.Task[None]]] = {}
        self._wakes = RuntimeWatches()
        self.created = 0
        self.may_create = asyncio.Event()
        self.may_create.set()

    @property
    def name(self) -> str:
        return "process"

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        for id in list(self._containers):
            await self.remove(id)
        self._wakes.close()

    async def look(self) -> Sequence[Container]:
        return [container for container, _, _ in self._containers.values()]

    async def create(self, spec: ContainerSpec) -> None:
        await self.may_create.wait()
        wanted = (spec.deployment, spec.instance, spec.attempt)
        for container, _, _ in self._containers.values():
            if (container.deployment, container.instance, container.attempt) == wanted:
                return
        self.created += 1
        id = hashlib.sha256(f"{wanted}{self.created}".encode()).hexdigest()
        address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        end = asyncio.Event()
        task = asyncio.create_task(self._predict(address, end))
        try:
            container = Container(id, *wanted, ContainerState.RUNNING, await address)
        except asyncio.CancelledError:
            # Nobody would know of it.
            end.set()
            await task
            raise
        self._containers[id] = (container, end, task)
        self._wakes.wake()

    async def _predict(self, address: asyncio.Future[str], end: asyncio.Event) -> None:
        config = PredictorConfig(listen="127.0.0.1:0", drain_s=0.0)
        async with running_predictor(config) as predictor:
            address.set_result(predictor.address)
            await end.wait()

    async def remove(self, container_id: str, *, grace_s: float = 10.0) -> None:
        if container_id in self._containers:
            _, end, task = self._containers[container_id]
            end.set()
            await task
            self._containers.pop(container_id, None)
            self._wakes.wake()

    async def kill(self) -> None:
        """End every predictor, leaving its container behind."""
        for id, (container, end, task) in list(self._containers.items()):
            end.set()
            await task
            exited = replace(container, state=ContainerState.EXITED, address="", exit_code=137)
            self._containers[id] = (exited, end, task)
        self._wakes.wake()

    async def logs(self, container_id: str, *, lines: int = 50) -> str:
        return "killed"

    async def servers(self) -> Sequence[Server]:
        return [Server("here", self.name, reachable=True)]

    def changes(self) -> AsyncGenerator[None, None]:
        return self._wakes.watch()


Answer = tuple[Probabilities, str]
GoOn = Callable[[], Awaitable[Answer]]
Scoring = Callable[[Rows, GoOn], Awaitable[Answer]]


class Gate:
    """Holds the answer number `at` of the predictors back until it is opened."""

    def __init__(self, at: int = 3) -> None:
        self._left = at
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def __call__(self, rows: Rows, go_on: GoOn) -> Answer:
        self._left -= 1
        if self._left == 0:
            self.reached.set()
            await self.open.wait()
        return await go_on()


class WatchedPredictors(Predictors):
    """Predictors whose answers pass through the test."""

    def __init__(self, scoring: Scoring | None) -> None:
        super().__init__()
        self._scoring = scoring
        self.asked = 0

    async def score(self, address: str, rows: Rows, *, timeout_s: float) -> Answer:
        self.asked += 1
        really = super().score

        async def go_on() -> Answer:
            return await really(address, rows, timeout_s=timeout_s)

        return await (go_on() if self._scoring is None else self._scoring(rows, go_on))
