"""Fixtures of the runtime tests. What they start, they end."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any, TypeAlias

import docker
import pytest
import uvloop

from controller.runtime.docker import DockerRuntime
from controller.runtime.process import ProcessRuntime, ProcessSettings
from tests.runtime.engine import client_of, remove_all
from tests.runtime.engine import settings_for as settings_of
from tests.runtime.serving import pids_with

LoopFactory: TypeAlias = Callable[[], asyncio.AbstractEventLoop]
OpenDocker: TypeAlias = Callable[..., Awaitable[DockerRuntime]]


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Servers run on uvloop, and on asyncio's own loop where there is none: the two start processes
    in ways of their own."""
    factories: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop}
    if "process" in item.path.name:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


@pytest.fixture
def api(engine: str) -> Iterator[docker.APIClient]:
    """A client of the engine, for what the port does not show."""
    with closing(client_of(engine)) as client:
        yield client


@pytest.fixture
async def open_docker(engine: str) -> AsyncIterator[OpenDocker]:
    """Opens runtimes with the given settings; closes them and removes their containers."""
    async with AsyncExitStack() as stack:

        async def open_runtime(
            base_url: str = engine, *, door: str | None = None, **others: Any
        ) -> DockerRuntime:
            """`door` is another address of the same engine."""
            settings = settings_of(door or base_url, **others)
            runtime = DockerRuntime(settings)
            # Last in, first out: the containers go when the runtime is closed.
            stack.callback(remove_all, base_url, settings.owner)
            stack.push_async_callback(runtime.close)
            await runtime.open()
            return runtime

        yield open_runtime


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A new folder with a path short enough for sockets; it must be empty afterwards, and no
    process may listen in it."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    yield folder
    assert pids_with(f"--listen=unix:{folder}") == []
    folder.rmdir()


@pytest.fixture
async def processes(short_path: Path) -> AsyncIterator[ProcessRuntime]:
    """An open process runtime."""
    runtime = ProcessRuntime(ProcessSettings(folder=short_path, close_grace_s=5.0))
    await runtime.open()
    yield runtime
    await runtime.close()
