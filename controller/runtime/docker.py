"""Predictors as containers of one Docker engine.

Everything that an engine can do late or twice is safe: a container is made under a name that its
attempt alone has, and started and removed by its full id. A request that timed out may have been
carried out or may be yet; whoever asked looks again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from docker import APIClient
from docker.errors import APIError

from .docker_container import (
    CPUS,
    MEMORY,
    OWNER,
    Ending,
    attempt_labels,
    create_container,
    label_filter,
    name_of,
    seen,
    state_of,
)
from .docker_engine import Engine
from .docker_errors import Meaning, explanation_of, meaning_of, unreachable
from .docker_events import EventFollower
from .docker_settings import DockerSettings
from .limits import check_limits
from .port import (
    Container,
    ContainerRefused,
    ContainerSpec,
    ContainerState,
    RuntimeFailure,
    RuntimeUnreachable,
    Server,
)
from .wakes import RuntimeWatches

log = logging.getLogger(__name__)

BUSY_TRIES = 40
BUSY_PAUSE_S = 0.05
"""Of a worker thread, while the engine is in the middle of making or removing a container: its name
is taken before it is listed, and it is listed before it is found."""


class DockerRuntime:
    """The Runtime port on one engine. For one event loop."""

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._engine = Engine(settings)
        self._wakes = RuntimeWatches()
        self._events: EventFollower | None = None
        self._endings: dict[str, Ending] = {}

    @property
    def name(self) -> str:
        """ "docker"."""
        return "docker"

    async def open(self) -> None:
        """Begin to follow the engine's events, as soon as it answers."""
        self._events = EventFollower(self._engine, self._settings, self._wakes)

    async def close(self) -> None:
        """Let go of the engine. Containers stay, unless `keep_for` is gone."""
        if self._events is not None:
            await self._events.close()
        if self._settings.keep_for:
            await self._remove_unused()
        await self._engine.close()
        self._wakes.close()

    async def look(self) -> Sequence[Container]:
        """Every container with our owner label."""
        try:
            return await self._engine.call(self._look)
        except APIError as error:
            raise unreachable(error, self._settings) from error

    async def create(self, spec: ContainerSpec) -> None:
        """Make and start a container, or adopt the one that is there."""
        check_limits(spec)
        try:
            await self._engine.call(lambda client: self._create(client, spec))
        except APIError as error:
            raise self._refusal(error, spec) from error

    async def remove(self, container_id: str, *, grace_s: float = 10.0) -> None:
        """Stop and remove a container of ours."""
        seconds = math.ceil(grace_s)
        try:
            await self._engine.call(
                lambda client: self._remove(client, container_id, seconds), lasting_s=seconds
            )
        except APIError as error:
            raise unreachable(error, self._settings) from error

    async def logs(self, container_id: str, *, lines: int = 50) -> str:
        """The last lines of a container's output, as far as the engine keeps them."""
        try:
            output = await self._engine.call(lambda client: client.logs(container_id, tail=lines))
        except APIError as error:
            if meaning_of(error) is Meaning.GONE:
                return ""
            raise unreachable(error, self._settings) from error
        return bytes(output).decode(errors="replace").rstrip("\n")

    async def servers(self) -> Sequence[Server]:
        """The engine."""
        try:
            return [await self._engine.call(self._describe)]
        except (RuntimeFailure, APIError) as error:
            failure = unreachable(error, self._settings) if isinstance(error, APIError) else error
            return [Server(self._settings.server, self.name, reachable=False, detail=str(failure))]

    async def _remove_unused(self) -> None:
        """Remove all of ours at once, if nobody is left who uses them. What cannot be removed is
        logged: a stop goes on."""
        try:
            if await self._engine.call(self._is_used):
                return
            found = await self.look()
            log.info("removing what nobody uses any more", extra={"containers": len(found)})
            await asyncio.gather(*(self._remove_if_possible(each.id) for each in found))
        except (RuntimeFailure, APIError) as error:
            log.warning("containers are left behind", extra={"detail": str(error)})

    async def _remove_if_possible(self, container_id: str) -> None:
        try:
            await self.remove(container_id, grace_s=0)
        except (RuntimeFailure, APIError) as error:
            facts = {"container": container_id, "detail": str(error)}
            log.warning("container is left behind", extra=facts)

    def changes(self) -> AsyncGenerator[None, None]:
        """Wakes its reader at once, after events, and whenever events may have been missed."""
        return self._wakes.watch()

    # What follows runs in worker threads.

    def _ours(self, client: APIClient) -> Sequence[dict[str, Any]]:
        entries: Sequence[dict[str, Any]] = client.containers(
            all=True, filters=label_filter({OWNER: self._settings.owner})
        )
        return entries

    def _is_used(self, client: APIClient) -> bool:
        """Whether one of those that the containers are kept for runs, or will again at once."""
        alive = ["running", "restarting", "paused"]
        filters = {"label": list(self._settings.keep_for), "status": alive}
        return bool(client.containers(filters=filters))

    def _look(self, client: APIClient) -> Sequence[Container]:
        containers, endings = [], {}
        for entry in self._ours(client):
            ending = Ending()
            if state_of(entry) is ContainerState.EXITED:
                found = self._ending(client, entry["Id"])
                if found is None:
                    continue
                ending = endings[entry["Id"]] = found
            if container := seen(entry, ending, self._settings):
                containers.append(container)
        self._endings = endings
        return containers

    def _ending(self, client: APIClient, container_id: str) -> Ending | None:
        """How it ended; asked once for each container. None if it is gone by now."""
        if container_id in self._endings:
            return self._endings[container_id]
        try:
            state = client.inspect_container(container_id)["State"]
        except APIError as error:
            if meaning_of(error) is Meaning.GONE:
                return None
            raise
        return Ending(state.get("ExitCode"), bool(state.get("OOMKilled")))

    def _create(self, client: APIClient, spec: ContainerSpec) -> None:
        for _ in range(BUSY_TRIES):
            try:
                container_id = create_container(client, spec, self._settings)
            except APIError as error:
                if meaning_of(error) is not Meaning.TAKEN:
                    raise
            else:
                self._start(client, container_id)
                return
            entry = self._holder(client, spec)
            if entry is not None and (
                state_of(entry) is not ContainerState.STARTING or self._start(client, entry["Id"])
            ):
                return
            time.sleep(BUSY_PAUSE_S)
        raise RuntimeUnreachable(f"the engine is busy with {name_of(spec, self._settings.owner)}")

    def _holder(self, client: APIClient, spec: ContainerSpec) -> dict[str, Any] | None:
        """The container of ours that has the wanted name, as it is listed; None while the engine
        keeps the name for one that it is making or removing."""
        labels = attempt_labels(spec, self._settings.owner)
        entry: dict[str, Any]
        for entry in client.containers(all=True, filters=label_filter(labels)):
            return entry
        name = name_of(spec, self._settings.owner)
        try:
            found = client.inspect_container(name)
        except APIError as error:
            if meaning_of(error) is Meaning.GONE:
                return None
            raise
        if labels.items() <= (found["Config"].get("Labels") or {}).items():
            return None
        raise ContainerRefused(f"a container that is not ours has the name {name}: remove it")

    def _start(self, client: APIClient, container_id: str) -> bool:
        """False if the engine knows no such container, or not yet."""
        try:
            return _done(lambda: client.start(container_id))
        except APIError as error:
            if meaning_of(error) in (Meaning.REFUSED, Meaning.NO_IMAGE):
                _done(lambda: client.remove_container(container_id, v=True, force=True))
            raise

    def _remove(self, client: APIClient, container_id: str, grace_s: int) -> None:
        # The engine lists a container before it finds it: while one is being made, "no such
        # container" is not the last word. Only the list is.
        for _ in range(BUSY_TRIES):
            if not any(
                entry["Id"] == container_id and entry["State"] != "removing"
                for entry in self._ours(client)
            ):
                return
            _done(lambda: client.stop(container_id, timeout=grace_s))
            if _done(lambda: client.remove_container(container_id, v=True, force=True)):
                return
            time.sleep(BUSY_PAUSE_S)
        raise RuntimeUnreachable(f"the engine lists {container_id} and cannot find it")

    def _describe(self, client: APIClient) -> Server:
        facts, labels = client.info(), [entry["Labels"] for entry in self._ours(client)]
        return Server(
            name=self._settings.server,
            runtime=self.name,
            reachable=True,
            detail=f"Docker {facts.get('ServerVersion', '')}, API {client.api_version}",
            cpus=float(facts.get("NCPU", 0)),
            memory_bytes=int(facts.get("MemTotal", 0)),
            cpus_reserved=sum(float(each.get(CPUS, 0)) for each in labels),
            memory_bytes_reserved=sum(int(each.get(MEMORY, 0)) for each in labels),
            container_count=len(labels),
        )

    def _refusal(self, error: APIError, spec: ContainerSpec) -> RuntimeFailure:
        match meaning_of(error):
            case Meaning.NO_IMAGE:
                image = spec.image or self._settings.image
                return ContainerRefused(f"the engine has no image {image}: build or pull it there")
            case Meaning.REFUSED:
                return ContainerRefused(f"the engine refuses: {explanation_of(error)}")
            case _:
                return unreachable(error, self._settings)


def _done(request: Callable[[], object]) -> bool:
    """Whether the engine did it; False if it has no such container."""
    try:
        request()
    except APIError as error:
        if meaning_of(error) is Meaning.GONE:
            return False
        raise
    return True
