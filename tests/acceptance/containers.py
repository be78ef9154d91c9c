"""The containers of one owner on a real engine, counted there and not by their controllers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import docker

from tests.runtime.engine import SERVING_IMAGE, client_of, new_owner, ours, remove_all

T = TypeVar("T")


class Containers:
    """What controllers with `options` have made, and the engine has not forgotten."""

    def __init__(self, client: docker.APIClient, base_url: str, owner: str) -> None:
        self._client = client
        self._lock = threading.Lock()
        self.base_url = base_url
        self.owner = owner
        self.options = (
            "--runtime=docker",
            f"--docker-url={base_url}",
            f"--image={SERVING_IMAGE}",
            f"--owner={owner}",
        )

    async def all(self) -> list[dict[str, Any]]:
        """What the engine lists, whatever it does."""
        return await self._ask(lambda: ours(self._client, self.owner))

    async def running(self) -> dict[str, str]:
        """The ids of those that run, by `deployment.instance.attempt`."""
        found = {}
        for entry in await self.all():
            if entry["State"] == "running":
                labels = entry["Labels"]
                keys = (labels[f"trillium.{each}"] for each in ("deployment", "slot", "attempt"))
                name = ".".join(keys)
                assert name not in found
                found[name] = entry["Id"]
        return dict(sorted(found.items()))

    async def pids(self) -> dict[str, int]:
        """The first process of each that runs, named as by `running`."""
        ids = await self.running()
        inspect = self._client.inspect_container
        return {
            name: int((await self._ask(lambda id=id: inspect(id)))["State"]["Pid"])  # type: ignore[misc]
            for name, id in ids.items()
        }

    async def kill(self, container_id: str) -> None:
        """SIGKILL to its first process."""
        await self._ask(lambda: self._client.kill(container_id, "SIGKILL"))

    async def _ask(self, request: Callable[[], T]) -> T:
        """The client is for one request at a time."""

        def alone() -> T:
            with self._lock:
                return request()

        return await asyncio.to_thread(alone)


@contextmanager
def containers_on(base_url: str) -> Iterator[Containers]:
    """Those of an owner that nobody else has; what is left is removed at the end."""
    owner = new_owner()
    with closing(client_of(base_url)) as client:
        try:
            yield Containers(client, base_url, owner)
        finally:
            remove_all(base_url, owner)
