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
from trillium.cli.ensemble import (
    Described,
    Example,
    artifacts,
    describe,
    how_to_train,
    in_class_order,
)
from trillium.cli.processes import Child, Program, keep, stop_all, together
from trillium.cli.show import Score, Screen
from trillium.errors import TrilliumError
from trillium.process import EXIT_FAILED, EXIT_OK, StartFailed

if TYPE_CHECKING:
    from trillium.async_client import AsyncClient


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be started, and where."""

    ensemble: str
    models: Path
    """Folder of the artifacts."""
    demo: bool
    """End after the table."""
    port: int
    """Of the aggregator."""
    predictor_port: int
    """Of the first predictor; the others count up from it."""
    logs: Path
    """Folder for the logs."""


class Fleet:
    """All processes of an ensemble: the predictors, and the aggregator before them."""

    def __init__(self) -> None:
        self.predictors: list[Child] = []
        self.aggregator: Child | None = None

    @property
    def children(self) -> list[Child]:
        """All of them, the aggregator first."""
        return [*([self.aggregator] if self.aggregator else []), *self.predictors]

    async def stop(self) -> None:
        """Stop them: the aggregator first, so that what it still answers has whom to ask."""
        if self.aggregator:
            await self.aggregator.stop()
        await stop_all(self.predictors)

    def kill(self) -> None:
        """End them at once."""
        for child in self.children:
            child.kill()


async def up(plan: Plan, screen: Screen) -> int:
    """Start `plan`, score examples, show them, and stay up; answers the exit status.

    The first signal (Ctrl-C, SIGTERM, SIGHUP) stops everything in order, which is a success; a
    second one kills. No process is left in either case. Raises StartFailed.
    """
    fleet = Fleet()
    with _interruptible(fleet):
        try:
            return await _serve(plan, fleet, screen)
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


async def _serve(plan: Plan, fleet: Fleet, screen: Screen) -> int:
    programs = _predictor_programs(plan)
    ports.check(_wanted_ports(plan, programs))
    _empty_logs(plan, programs)
    screen.say(f"starting {plan.ensemble}: {len(programs)} predictors, then the aggregator ...")
    fleet.predictors = [Child(program) for program in programs]
    await together(_start(child, plan) for child in fleet.predictors)
    found = [await describe(program.address) for program in programs]
    members = in_class_order(plan.ensemble, plan.models, found)
    fleet.aggregator = Child(_aggregator_program(plan, members))
    await _start(fleet.aggregator, plan)
    scores = await _score(fleet.aggregator.program.address, members)
    screen.scores(plan.ensemble, members[0].feature_names, scores)
    if plan.demo:
        return EXIT_FAILED if any(score.error for score in scores) else EXIT_OK
    screen.how_to_call(fleet.aggregator.program.address, members[0].examples)
    screen.say(f"logs are in {plan.logs}/; Ctrl-C stops everything")
    await together(keep(child, screen.event) for child in fleet.children)
    raise AssertionError("children are kept for ever")


def _predictor_programs(plan: Plan) -> list[Program]:
    programs = []
    for offset, artifact in enumerate(artifacts(plan.models, plan.ensemble)):
        port = plan.predictor_port + offset
        command = _command("predictor", port, "--model", str(artifact))
        log = plan.logs / f"{artifact.stem}-{port}.log"
        programs.append(Program(f"predictor {artifact.stem}", command, port, log))
    return programs


def _aggregator_program(plan: Plan, members: Sequence[Described]) -> Program:
    predictors = [
        word
        for member in members
        for word in ("--predictor", f"{member.class_label}={member.address}")
    ]
    command = _command("aggregator", plan.port, *predictors)
    return Program("the aggregator", command, plan.port, _aggregator_log(plan))


def _aggregator_log(plan: Plan) -> Path:
    return plan.logs / f"{plan.ensemble}-aggregator-{plan.port}.log"


def _command(module: str, port: int, *words: str) -> tuple[str, ...]:
    """The command of a server that ends when this process does."""
    listen = ("--listen", f"{ports.HOST}:{port}", "--parent-pid", str(os.getpid()))
    return (sys.executable, "-m", module, *words, *listen)


def _wanted_ports(plan: Plan, programs: Sequence[Program]) -> list[ports.Wanted]:
    return [
        ports.Wanted(plan.port, "the aggregator", "--port"),
        *(ports.Wanted(each.port, each.name, "--predictor-port") for each in programs),
    ]


def _empty_logs(plan: Plan, programs: Sequence[Program]) -> None:
    try:
        plan.logs.mkdir(parents=True, exist_ok=True)
        for log in (_aggregator_log(plan), *(program.log for program in programs)):
            log.write_bytes(b"")
    except OSError as error:
        text = f"cannot write logs to {plan.logs}: {error.strerror}"
        raise StartFailed(f"{text}; choose another folder with --logs") from error


async def _start(child: Child, plan: Plan) -> None:
    await child.start()
    try:
        await child.until_serving()
    except StartFailed as error:
        if child.status != EXIT_FAILED or child.program.name == "the aggregator":
            raise
        again = f"if the artifact is damaged, delete it and run: {how_to_train(plan.ensemble)}"
        raise StartFailed(f"{str(error).rstrip('.')}; {again}") from error


async def _score(address: str, members: Sequence[Described]) -> list[Score]:
    """What the aggregator answers for each example, one call for each, and how long it took."""
    from trillium.async_client import AsyncClient

    examples = members[0].examples
    async with AsyncClient(address) as client:
        if examples:
            # The first call makes the connection, which is not what is to be timed.
            await client.is_serving()
            await _score_one(client, examples[0])
        return [await _score_one(client, example) for example in examples]


async def _score_one(client: AsyncClient, example: Example) -> Score:
    began = time.perf_counter()
    try:
        answer = await client.classify(example.features, include_probabilities=True)
    except TrilliumError as error:
        return Score(example.features, example.label, error=str(error))
    took_ms = (time.perf_counter() - began) * 1000
    assert answer.class_probabilities is not None
    return Score(
        features=example.features,
        true_label=example.label,
        label=answer.labels[0] or "",
        probabilities=dict(
            zip(answer.class_labels, answer.class_probabilities[0].tolist(), strict=True)
        ),
        took_ms=took_ms,
    )
