"""The contract of the runtime port, on processes and on a real engine."""

from __future__ import annotations

import os
import signal

import docker
import pytest

from controller.runtime.port import Container, Runtime
from controller.runtime.process import ProcessRuntime
from tests.runtime.conftest import OpenDocker
from tests.runtime.serving import pids_with

pytest.register_assert_rewrite("tests.runtime.contract")

from tests.runtime.contract import RuntimeContract  # noqa: E402


class TestProcess(RuntimeContract):
    """Child processes."""

    @pytest.fixture
    async def runtime(self, processes: ProcessRuntime) -> Runtime:
        return processes

    async def kill(self, runtime: Runtime, container: Container) -> None:
        (pid,) = pids_with(f"--listen={container.address}")
        os.kill(pid, signal.SIGKILL)


@pytest.mark.engine
class TestDocker(RuntimeContract):
    """Containers of a real engine."""

    @pytest.fixture
    async def runtime(self, open_docker: OpenDocker, api: docker.APIClient) -> Runtime:
        self.api = api
        return await open_docker()

    async def kill(self, runtime: Runtime, container: Container) -> None:
        self.api.kill(container.id, "SIGKILL")
