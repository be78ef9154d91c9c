"""Ending an engine of one's own ends all that is its own, whatever has become of it."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import Any

import docker
import pytest

from tests.runtime.engine import SERVING_IMAGE, ApartEngine, client_of
from tests.runtime.serving import is_running, pids_with
from tests.waiting import eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(180)]


def start_container(api: docker.APIClient) -> tuple[str, int]:
    """The id of a new container, and its first process."""
    host: Any = api.create_host_config(network_mode="none", init=True)
    made = api.create_container(SERVING_IMAGE, ["predictor"], host_config=host)["Id"]
    api.start(made)
    return made, int(api.inspect_container(made)["State"]["Pid"])


@pytest.mark.parametrize("left", ["its shims and containers", "its containers"])
async def test_stopping_an_engine_that_was_killed_ends_its_containers_and_no_others(
    apart: ApartEngine, api: docker.APIClient, left: str
) -> None:
    apart.start()
    its_own = f"{apart.folder}/"
    other, others = start_container(api)
    try:
        with closing(client_of(apart.base_url)) as client:
            ours, first = start_container(client)
        apart.send(signal.SIGKILL)
        # Its containerd dies with it.
        await eventually(lambda: all(_is_shim(pid) for pid in pids_with(its_own)))
        assert len(pids_with(its_own)) == 1
        if left == "its containers":
            for pid in pids_with(its_own):
                os.kill(pid, signal.SIGKILL)
        assert is_running(first)
        apart.stop()
        assert not is_running(first)
        assert pids_with(its_own) == []
        assert apart.mounts() == []
        assert is_running(others)
    finally:
        api.remove_container(other, force=True)
        apart.start()
    with closing(client_of(apart.base_url)) as client:
        assert client.inspect_container(ours)["State"]["Running"] is False
        client.remove_container(ours)


def _is_shim(pid: int) -> bool:
    try:
        return "containerd-shim" in os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
