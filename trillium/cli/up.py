"""`trillium up`: a whole ensemble on this machine, from artifacts to a table, until Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trillium.cli import ports
from trillium.cli.ensemble import Described, artifacts, in_class_order
from trillium.cli.processes import Child, Program, keep, together, unless_one_ends
from trillium.cli.show import Screen
from trillium.cli.state import emptied, held
from trillium.process import EXIT_FAILED, EXIT_OK, StartFailed

if TYPE_CHECKING:
    from trillium.cli.controller import ControllerCalls

REGISTERING_S = 300.0
"""How long a controller may take until it serves: it tries every new artifact of the folder."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started, and where."""

    ensemble: str
    models: Path
    """Folder of the artifacts."""
    demo: bool
    """End after the table and the run."""
    port: int
    """Of the aggregator."""
    controller_port: int
    state: Path
    """Folder for what a restart resumes, and for the logs below it."""
    gateway_port: int | None = None
    """Of the gateway; None is without one."""
    allowed_hosts: Sequence[str] = ()
    """Names of the gateway besides those that it listens on."""
    make_target: str = ""
    """The target of the Makefile that starts this; empty if none does."""

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def gateway_ports(self) -> Sequence[int]:
        """One or none."""
        return () if self.gateway_port is None else (self.gateway_port,)


class Fleet:
    """The processes of a plan: the controller, which has the predictors, the aggregator, and the
    gateway if one is wanted."""

    def __init__(self, plan: Plan) -> None:
        self.began = time.monotonic()
        self.controller = Child(_controller_program(plan))
        self.aggregator = Child(_aggregator_program(plan))
        self.gateways = [Child(_gateway_program(plan, port)) for port in plan.gateway_ports]

    @property
    def children(self) -> tuple[Child, ...]:
        """All; the controller first, for which the others can wait."""
        return (self.controller, self.aggregator, *self.gateways)

    async def stop(self) -> None:
        """Stop them in the order of who asks whom, so that what is still answered can be."""
        for child in reversed(self.children):
            await child.stop()

    def kill(self) -> None:
        """End them at once; the predictors end with the controller."""
        for child in self.children:
            child.kill()


async def up(plan: Plan, screen: Screen) -> int:
    """Start `plan`, score examples, show them, and stay up; answers the exit status.

    The first signal (Ctrl-C, SIGTERM, SIGHUP) stops everything in order, which is a success; a
    second one kills. No process is left in either case. Raises StartFailed.
    """
    found = artifacts(plan.models, plan.ensemble)
    fleet = Fleet(plan)
    ports.check(_wanted_ports(plan), plan.make_target)
    with held(plan.state), _interruptible(fleet):
        try:
            return await _serve(plan, found, fleet, screen)
        except asyncio.CancelledError:
            screen.say("stopping ...")
            return EXIT_OK
        finally:
            await fleet.stop()


@contextmanager
def _interruptible(fleet: Fleet) -> Iterator[None]:
    """Let the first signal cancel the calling task, and the second one kill everything."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    signalled = False

    def on_signal(number: int) -> None:
        nonlocal signalled
        if signalled:
            fleet.kill()
            os._exit(128 + number)
        signalled = True
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal, number)
    yield


async def _serve(plan: Plan, found: Sequence[Path], fleet: Fleet, screen: Screen) -> int:
    where = f"controller ({fleet.controller.program.address})"
    screen.say(f"starting {where} and aggregator ({fleet.aggregator.program.address}) ...")
    for child in fleet.children:
        emptied(child.program.log)
        await child.start()
    status = await unless_one_ends(fleet.children, _shown(plan, found, fleet, screen))
    if plan.demo:
        return status
    from trillium.cli.events import tell_changes
    from trillium.cli.loading import deployment_id

    screen.say(f"logs are in {plan.logs}/; Ctrl-C stops everything")
    ids = [deployment_id(artifact.stem) for artifact in found]
    work = [keep(child, screen.event) for child in fleet.children]
    await together([*work, tell_changes(fleet.controller.program.address, ids, screen.event)])
    raise AssertionError("children are kept for ever")


async def _shown(plan: Plan, found: Sequence[Path], fleet: Fleet, screen: Screen) -> int:
    """Load everything and show that it works; answers the exit status of a demo."""
    # Imported while the processes that these ask are starting themselves.
    from trillium.async_client import AsyncClient
    from trillium.cli.controller import ControllerCalls
    from trillium.cli.loading import check_registered
    from trillium.cli.scoring import score, until_whole

    await _until_listening(fleet.controller)
    addresses = [child.program.address for child in (fleet.controller, fleet.aggregator)]
    async with ControllerCalls(addresses[0]) as controller, AsyncClient(addresses[1]) as client:
        await check_registered(controller, found, plan.ensemble)
        members = await _loaded(plan, found, controller, screen)
        for child in (fleet.aggregator, *fleet.gateways):
            await child.until_listening()
        await until_whole(client, [member.class_label for member in members])
        scores = await score(client, members[0].examples)
        screen.say(f"{plan.ensemble} is up after {time.monotonic() - fleet.began:.1f} s")
        screen.scores(plan.ensemble, members[0].feature_names, scores)
        ran = await _run(plan, members[-1].model, controller, screen)
    if not plan.demo:
        http = [child.program.address for child in fleet.gateways]
        screen.how_to_call(addresses[1], addresses[0], members[0].examples, http)
    return EXIT_OK if ran and not any(score.error for score in scores) else EXIT_FAILED


async def _until_listening(controller: Child) -> None:
    """Wait until the controller serves, and so has tried the models. Raises StartFailed."""
    try:
        async with asyncio.timeout(REGISTERING_S):
            await controller.until_listening()
    except TimeoutError:
        text = f"the controller did not serve within {REGISTERING_S:g} s"
        raise StartFailed(f"{text}; its log: {controller.program.log}") from None


async def _loaded(
    plan: Plan, found: Sequence[Path], controller: ControllerCalls, screen: Screen
) -> list[Described]:
    """The ensemble's models in the order of its classes, once all are loaded."""
    from trillium.cli.loading import load_all

    models = [artifact.stem for artifact in found]
    members = await load_all(controller, models, screen.say)
    return in_class_order(plan.ensemble, plan.models, members)


async def _run(plan: Plan, model: str, controller: ControllerCalls, screen: Screen) -> bool:
    """Run a model over the dataset of the ensemble's name, if there is one; False if it failed."""
    from trillium.errors import TrilliumError

    try:
        if not await controller.has_dataset(plan.ensemble):
            return True
        screen.say(
            f"running {model} on the dataset {plan.ensemble} with a predictor of its own ..."
        )
        run = await controller.run(model, plan.ensemble)
    except TrilliumError as error:
        screen.problem(f"{model} was not run on the dataset {plan.ensemble}: {error}")
        return False
    screen.run(run)
    return not run.failure


def _controller_program(plan: Plan) -> Program:
    store = ("--store", f"sqlite:{plan.state / 'controller.db'}")
    models = ("--models-dir", str(plan.models))
    command = _command("controller", plan.controller_port, *store, *models)
    log = plan.logs / f"controller-{plan.controller_port}.log"
    return Program("the controller", command, plan.controller_port, log)


def _aggregator_program(plan: Plan) -> Program:
    controller = ("--controller", f"{ports.HOST}:{plan.controller_port}")
    command = _command("aggregator", plan.port, *controller, "--ensemble", plan.ensemble)
    log = plan.logs / f"{plan.ensemble}-aggregator-{plan.port}.log"
    return Program("the aggregator", command, plan.port, log)


def _gateway_program(plan: Plan, port: int) -> Program:
    aggregator = ("--aggregator", f"{ports.HOST}:{plan.port}")
    controller = ("--controller", f"{ports.HOST}:{plan.controller_port}")
    hosts = [f"--allowed-host={each}" for each in plan.allowed_hosts]
    command = _command("gateway", port, *aggregator, *controller, *hosts)
    return Program("the gateway", command, port, plan.logs / f"gateway-{port}.log")


def _command(module: str, port: int, *words: str) -> tuple[str, ...]:
    """The command of a server that ends when this process does."""
    listen = ("--listen", f"{ports.HOST}:{port}", "--parent-pid", str(os.getpid()))
    return (sys.executable, "-m", module, *words, *listen)


def _wanted_ports(plan: Plan) -> list[ports.Wanted]:
    return [
        ports.Wanted(plan.port, "the aggregator", "--port", ports.AGGREGATOR),
        ports.Wanted(plan.controller_port, "the controller", "--controller-port", ports.CONTROLLER),
        *(ports.Wanted(port, "the gateway", "--gateway-port") for port in plan.gateway_ports),
    ]
