"""`python -m bench.control`: what a controller's work costs as deployments and history grow.

The controller and its store are the real ones, in this process. Containers and predictors are
simulated, so that a thousand of them cost nothing themselves. Figures are seconds of CPU of this
process, the callers' share included; wall time says little on a shared machine.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

from grpc import aio

from bench.linear import write_model
from bench.processes import ROOT
from bench.report import machine
from controller.app import running_controller
from controller.config import ControllerConfig
from controller.deployments.document import Deployment, Instance, Spec, Target
from controller.deployments.repository import Deployments
from controller.predictors import Artifact, Predictors
from controller.runtime.port import Container, ContainerSpec, ContainerState, Server
from controller.runtime.wakes import RuntimeWatches
from controller.seen import SeenPredictor
from controller.store.port import Log, Store
from controller.store.sqlite import SqliteStore
from trillium.clock import SystemClock
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub

MODEL = "synthetic"
CALL_S = 120.0
CREATE_S = 0.1
"""How long a simulated engine takes for a container."""
CYCLES = 10
ROWS_IN_ENTRY = 1000


class SimulatedFleet(Predictors):
    """Predictors that hold the name of a model, and nothing else; by address."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, SeenPredictor] = {}

    async def look(self, address: str) -> SeenPredictor | None:
        await asyncio.sleep(0)
        return self.held.get(address)

    async def answers(self, address: str, timeout_s: float) -> bool:
        return address in self.held

    async def load(
        self, address: str, artifact: Artifact, *, timeout_s: float, fence: int = 0
    ) -> None:
        self.held[address] = SeenPredictor(artifact.digest, False, fence)

    async def unload(self, address: str, *, fence: int = 0) -> None:
        self.held[address] = SeenPredictor("", False, fence)


class SimulatedRuntime:
    """Containers that are noted down."""

    def __init__(self, fleet: SimulatedFleet) -> None:
        self._fleet = fleet
        self.containers: dict[str, Container] = {}
        self._wakes = RuntimeWatches()
        self._count = 0

    @property
    def name(self) -> str:
        return "docker"

    async def open(self) -> None:
        return

    async def close(self) -> None:
        self._wakes.close()

    async def look(self) -> Sequence[Container]:
        await asyncio.sleep(0.005)
        return list(self.containers.values())

    async def create(self, spec: ContainerSpec) -> None:
        key = (spec.deployment, spec.instance, spec.attempt)
        id = hashlib.sha256(repr(key).encode()).hexdigest()
        if id in self.containers:
            return
        await asyncio.sleep(CREATE_S)
        self._count += 1
        address = f"10.0.{self._count // 250}.{self._count % 250}:50061"
        self.containers[id] = Container(id, *key, ContainerState.RUNNING, address, "node")
        self._fleet.held[address] = SeenPredictor("", False, 0)
        self._wakes.wake()

    async def remove(self, container_id: str, *, grace_s: float = 10.0) -> None:
        if gone := self.containers.pop(container_id, None):
            self._fleet.held.pop(gone.address, None)
        self._wakes.wake()

    async def logs(self, container_id: str, *, lines: int = 50) -> str:
        return ""

    async def servers(self) -> Sequence[Server]:
        return [Server("node", "docker", True)]

    def changes(self) -> AsyncGenerator[None, None]:
        return self._wakes.watch()

    def kill(self, deployment: str) -> None:
        """The only container of a deployment dies."""
        (found,) = (each for each in self.containers.values() if each.deployment == deployment)
        self._fleet.held.pop(found.address)
        self.containers[found.id] = replace(found, state=ContainerState.EXITED, exit_code=137)
        self._wakes.wake()


@dataclass(frozen=True, slots=True)
class Control:
    """A controller that is up, and what it works on."""

    stub: Any
    runtime: SimulatedRuntime
    started_s: float

    async def load(self, id: str, replicas: int = 1) -> None:
        """Have a deployment loaded, and wait for it."""
        create = pb.CreateDeploymentRequest(
            deployment_id=id, model=MODEL, replica_count=replicas, no_wait=True
        )
        await self.stub.CreateDeployment(create, timeout=CALL_S)
        request = pb.LoadDeploymentRequest(name=f"deployments/{id}")
        await self.stub.LoadDeployment(request, timeout=CALL_S)

    async def terminate(self, id: str) -> None:
        request = pb.TerminateDeploymentRequest(name=f"deployments/{id}")
        await self.stub.TerminateDeployment(request, timeout=CALL_S)

    async def heal(self, id: str) -> None:
        """Kill the predictor of a deployment, and wait until there is another one."""
        request = pb.WatchDeploymentsRequest(name=f"deployments/{id}")
        call = self.stub.WatchDeployments(request, timeout=CALL_S)
        async for event in call:
            if event.HasField("snapshot_end"):
                self.runtime.kill(id)
            instances = event.deployment.instances
            is_new = instances and instances[0].attempt > 1
            if is_new and event.deployment.state == deployment_pb2.STATE_LOADED:
                call.cancel()
                return


@asynccontextmanager
async def controlling(folder: Path) -> AsyncIterator[Control]:
    """A controller whose state is in `folder`, and knows the model."""
    fleet = SimulatedFleet()
    runtime = SimulatedRuntime(fleet)
    config = ControllerConfig(listen="127.0.0.1:0", store=f"sqlite:{folder}/state.db", drain_s=1.0)
    model = folder / "model.onnx"
    write_model(0, model)
    artifact = model.read_bytes()
    header = catalog_pb.RegisterModelHeader(
        name=MODEL,
        sha256=hashlib.sha256(artifact).hexdigest(),
        size_bytes=len(artifact),
        class_label="class0",
        positive_column=0,
    )
    parts = (
        catalog_pb.RegisterModelRequest(header=header),
        catalog_pb.RegisterModelRequest(chunk=artifact),
    )
    began = time.monotonic()
    async with running_controller(config, runtime=runtime, predictors=fleet) as up:
        started_s = time.monotonic() - began
        async with aio.insecure_channel(up.address) as channel:
            await CatalogServiceStub(channel).RegisterModel(iter(parts), timeout=CALL_S)
            yield Control(ControllerServiceStub(channel), runtime, started_s)


async def fill(store: Store, deployments: int, rows: int) -> None:
    """What an earlier controller would have left: terminated deployments, and results of runs."""
    now = datetime.now(UTC).replace(microsecond=0)
    spec = Spec(MODEL, 1, "0" * 64, "class0", target=Target.ABSENT)
    kept = Deployments(store, SystemClock())
    for number in range(deployments):
        ended = Deployment(
            f"old{number:05}", spec, (Instance(since=now, attempt=1),), now, now, event_count=9
        )
        await kept.put(ended.id, ended, 0)
    entry = {"rows": [0.5] * ROWS_IN_ENTRY}
    for number in range(1, rows // ROWS_IN_ENTRY + 1):
        await store.append(Log.RESULT, "old", number, entry, expires=now + timedelta(days=7))


async def spent(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds of CPU that this process needs for `work`."""
    before = time.process_time()
    await work()
    return time.process_time() - before


async def history(size: int, folder: Path) -> dict[str, float]:
    """A load and a termination, after `size` deployments that were terminated and 100 rows of
    results for each."""
    store = SqliteStore(folder / "state.db")
    await store.open()
    await fill(store, size, 100 * size)
    await store.close()
    seen = []
    async with controlling(folder) as up:
        for number in range(CYCLES):

            async def cycle(id: str = f"new{number}") -> None:
                await up.load(id)
                await up.terminate(id)

            seen.append(await spent(cycle))
        return {"cycle_cpu_s": median(seen), "start_s": up.started_s}


async def shape(size: int, folder: Path) -> dict[str, float]:
    """60 instances, in deployments of `size` replicas each."""
    async with controlling(folder) as up:

        async def load() -> None:
            await asyncio.gather(*(up.load(f"d{number}", size) for number in range(60 // size)))

        return {"load_cpu_s": await spent(load)}


async def death(size: int, folder: Path) -> dict[str, float]:
    """One death among `size` deployments of one instance, and a rest of 35 s, in which everything
    is looked at once."""
    async with controlling(folder) as up:
        await asyncio.gather(*(up.load(f"d{number}") for number in range(size)))
        await asyncio.sleep(2.0)
        healed = await spent(lambda: up.heal("d0"))
        idle = await spent(lambda: asyncio.sleep(35.0))
        return {"death_cpu_s": healed, "idle_core": idle / 35.0}


Measure: TypeAlias = Callable[[int, Path], Coroutine[Any, Any, dict[str, float]]]
PARTS: dict[str, tuple[Measure, Sequence[int]]] = {
    "history": (history, (0, 1_000, 10_000)),
    "shape": (shape, (1, 60)),
    "death": (death, (10, 100, 1_000)),
}


STEEPEST = 1.5
MOST_IDLE = 0.05
"""Share of a core that a thousand idle deployments may take."""


def missed(told: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """The goals that were not reached, in words."""
    found = []
    for what, figure in (("history", "cycle_cpu_s"), ("shape", "load_cpu_s")):
        points = told.get(what, ())
        ratio = points[-1][figure] / points[0][figure] if points else 0.0
        if ratio > STEEPEST:
            size = f"{points[-1]['size']:.0f} for {points[0]['size']:.0f}"
            found.append(f"{what}: {ratio:.2f} times the CPU ({size}), at most {STEEPEST:g} wanted")
    found += [
        f"{point['size']:.0f} idle deployments take {point['idle_core']:.1%} of a core"
        for point in told.get("death", ())
        if point["idle_core"] > MOST_IDLE
    ]
    return found


def main() -> int:
    """Measure what is wanted; the answer is how many goals are missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.control", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--largest", type=int, help="leave out larger sizes")
    wanted = parser.parse_args()
    wanted.output.mkdir(parents=True, exist_ok=True)
    told: dict[str, list[dict[str, float]]] = {}
    for what in wanted.only:
        measure, sizes = PARTS[what]
        told[what] = []
        for size in (each for each in sizes if each <= (wanted.largest or each)):
            with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
                point: dict[str, float] = asyncio.run(measure(size, Path(scratch)))
            told[what].append({"size": size, **point})
            print(what, size, {name: round(value, 4) for name, value in point.items()}, flush=True)
    text = json.dumps({"machine": machine(), **told}, indent=1)
    (wanted.output / "control.json").write_text(text + "\n")
    misses = missed(told)
    print("; ".join(misses) or "every goal is reached")
    return len(misses)


if __name__ == "__main__":
    sys.exit(main())
