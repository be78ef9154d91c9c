"""ControllerService: messages to commands and back, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from functools import partial
from typing import Protocol

from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.errors import (
    DeploymentFailed,
    DeploymentNotFound,
    Draining,
    InvalidRequest,
    RecordUnreadable,
    Superseded,
)
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.violations import Violations, check_all
from trillium.waking import first_of

from .. import names
from ..requests import Requests
from ..runtime.port import Runtime
from ..store.port import StoreUnavailable
from ..store.records import Followed, Stored
from .document import LIVE, Deployment, Spec, State, Target
from .inventory import Inventory
from .limits import check_limits, check_replicas
from .messages import (
    STATES,
    deployment_message,
    event_message,
    server_message,
)
from .repository import Deployments
from .verbs import Command, Verb

CONTROLLER_SERVICE = "trillium.controller.v1.ControllerService"
MOST_IN_PAGE = 500
FULL_LOOK_S = 60.0
"""A watch learns of removed records within this time."""
STORE_PAUSE_S = 0.5
"""Pause before a verb that waits reads again, after the store did not answer."""

_REACHED = {
    Target.ABSENT: State.TERMINATED,
    Target.CREATED: State.CREATED,
    Target.LOADED: State.LOADED,
}


class Specs(Protocol):
    """Knows the models."""

    async def spec(self, model: str, version: int) -> Spec:
        """A spec for that version of a model, 0 meaning the newest; raises ModelNotFound."""
        ...


class ControllerServicer:
    """Applies verbs and returns deployments."""

    def __init__(
        self,
        deployments: Deployments,
        requests: Requests,
        specs: Specs,
        inventory: Inventory,
        runtime: Runtime,
    ) -> None:
        self._deployments = deployments
        self._requests = requests
        self._specs = specs
        self._inventory = inventory
        self._runtime = runtime
        self.draining = asyncio.Event()
        """Set when the server is about to stop: watches then end."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return service_of(
            pb.DESCRIPTOR.services_by_name["ControllerService"],
            {
                "CreateDeployment": self._create,
                "LoadDeployment": self._load,
                "UpdateDeployment": self._update,
                "UnloadDeployment": self._unload,
                "TerminateDeployment": self._terminate,
                "GetDeployment": self._get,
                "ListDeployments": self._list,
                "WatchDeployments": self._watch,
                "ListDeploymentEvents": self._events,
                "ListServers": self._servers,
            },
        )

    async def _create(
        self, request: pb.CreateDeploymentRequest, call: Call
    ) -> deployment_pb.Deployment:
        _check_create(request)
        await self._requests.check(request.request_id, names.request_digest(request))
        id = request.deployment_id or names.made_up_id("d", request.request_id)
        spec = await self._specs.spec(request.model, request.model_version)
        limits = request.limits
        spec = Spec(
            model=spec.model,
            version=spec.version,
            digest=spec.digest,
            class_label=spec.class_label,
            ensemble=spec.ensemble,
            class_position=spec.class_position,
            replicas=request.replica_count or 1,
            cpus=limits.cpus if limits.HasField("cpus") else None,
            memory_bytes=limits.memory_bytes if limits.HasField("memory_bytes") else None,
        )
        command = Command(Verb.CREATE, id, spec, request.request_id)
        return await self._apply(command, wait=not request.no_wait)

    async def _load(
        self, request: pb.LoadDeploymentRequest, call: Call
    ) -> deployment_pb.Deployment:
        check_all(
            lambda: _deployment_id(request.name),
            lambda: _request_id(request.request_id),
            lambda: names.checked_token(request.model, "model", 128),
        )
        id = _deployment_id(request.name)
        await self._requests.check(request.request_id, names.request_digest(request))
        stored = await self._deployments.get(id)
        known = None if stored is None else stored.value
        spec = await self._spec_to_load(request, known)
        command = Command(Verb.LOAD, id, spec, request.request_id)
        return await self._apply(command, wait=not request.no_wait)

    async def _spec_to_load(
        self, request: pb.LoadDeploymentRequest, known: Deployment | None
    ) -> Spec | None:
        """The spec that a load asks for; None to keep that of the deployment."""
        if known is not None and request.model and request.model != known.spec.model:
            text = f"is {request.model!r}; the deployment's is {known.spec.model!r}"
            raise InvalidRequest.of("model", text)
        model = request.model or (known.spec.model if known is not None else "")
        if known is None and not model:
            text = f"there is no deployment {_deployment_id(request.name)!r}"
            raise DeploymentNotFound(f"{text}; name a model to have it created")
        if known is not None and not (request.model_version or request.newest_version):
            return None
        return await self._specs.spec(model, request.model_version)

    async def _update(
        self, request: pb.UpdateDeploymentRequest, call: Call
    ) -> deployment_pb.Deployment:
        _check_update(request)
        id = _deployment_id(request.name)
        await self._requests.check(request.request_id, names.request_digest(request))
        command = Command(
            Verb.UPDATE, id, request_id=request.request_id, replicas=request.replica_count
        )
        return await self._apply(command, wait=not request.no_wait)

    async def _unload(
        self, request: pb.UnloadDeploymentRequest, call: Call
    ) -> deployment_pb.Deployment:
        return await self._simple(Verb.UNLOAD, request)

    async def _terminate(
        self, request: pb.TerminateDeploymentRequest, call: Call
    ) -> deployment_pb.Deployment:
        return await self._simple(Verb.TERMINATE, request)

    async def _simple(
        self, verb: Verb, request: pb.UnloadDeploymentRequest | pb.TerminateDeploymentRequest
    ) -> deployment_pb.Deployment:
        check_all(lambda: _deployment_id(request.name), lambda: _request_id(request.request_id))
        id = _deployment_id(request.name)
        await self._requests.check(request.request_id, names.request_digest(request))
        command = Command(verb, id, None, request.request_id)
        return await self._apply(command, wait=not request.no_wait)

    async def _apply(self, command: Command, *, wait: bool) -> deployment_pb.Deployment:
        stored = await self._deployments.apply(command)
        if wait:
            stored = await reached(self._deployments, stored)
        return self._message(stored)

    async def _get(self, request: pb.GetDeploymentRequest, call: Call) -> deployment_pb.Deployment:
        id = _deployment_id(request.name)
        stored = await self._deployments.get(id)
        if stored is None:
            raise DeploymentNotFound(f"there is no deployment {id!r}")
        return self._message(stored)

    async def _list(
        self, request: pb.ListDeploymentsRequest, call: Call
    ) -> pb.ListDeploymentsResponse:
        check_all(
            lambda: names.page_size(request.page_size, 100, MOST_IN_PAGE),
            lambda: names.after_of(request.page_token),
            *(partial(_state, number, index) for index, number in enumerate(request.states)),
        )
        size = names.page_size(request.page_size, 100, MOST_IN_PAGE)
        page = await self._deployments.page(
            after=names.after_of(request.page_token),
            limit=size + 1,
            states=[_state(number, index) for index, number in enumerate(request.states)],
            model=request.model,
        )
        token = names.page_token(page[size - 1].id) if len(page) > size else ""
        messages = [self._message(stored) for stored in page[:size]]
        return pb.ListDeploymentsResponse(
            deployments=messages,
            next_page_token=token,
            unreadable=names.unreadable(self._deployments, names.DEPLOYMENTS, request.page_token),
        )

    async def _watch(
        self, request: pb.WatchDeploymentsRequest, call: Call
    ) -> AsyncGenerator[pb.WatchDeploymentsResponse]:
        only = _deployment_id(request.name) if request.name else ""
        known = dict(request.known_revisions)
        if only:
            known = {name: rev for name, rev in known.items() if name == request.name}
        live = Followed(self._deployments, LIVE)
        is_first, next_full = True, 0.0
        time_s = asyncio.get_running_loop().time
        while True:
            changed = self._deployments.changed()
            ids = {only} if only else await live.look()
            if not only and time_s() >= next_full:
                # Those that have ended, too, of which there may be very many: but for their
                # removal, nothing happens to them that is not a change of what is live.
                next_full = time_s() + FULL_LOOK_S
                there = await self._deployments.revisions()
                ids = {id for id, rev in there.items() if known.get(names.DEPLOYMENTS + id) != rev}
                ids |= {name.removeprefix(names.DEPLOYMENTS) for name in known} - there.keys()
            for id in sorted(ids):
                name = names.DEPLOYMENTS + id
                try:
                    stored = await self._deployments.get(id)
                except RecordUnreadable:
                    continue
                if stored is not None and known.get(name) != stored.rev:
                    known[name] = stored.rev
                    yield pb.WatchDeploymentsResponse(deployment=self._message(stored))
                if stored is None and known.pop(name, 0):
                    yield pb.WatchDeploymentsResponse(forgotten=name)
            if is_first:
                is_first = False
                yield pb.WatchDeploymentsResponse(snapshot_end=pb.SnapshotEnd())
            await first_of(changed.wait(), self.draining.wait(), timeout_s=FULL_LOOK_S)
            if self.draining.is_set():
                raise Draining("the controller stops; watch again with the known revisions")

    async def _events(
        self, request: pb.ListDeploymentEventsRequest, call: Call
    ) -> pb.ListDeploymentEventsResponse:
        check_all(
            lambda: _deployment_id(request.name),
            lambda: names.page_size(request.page_size, 100, MOST_IN_PAGE),
            lambda: _event_number(request.page_token),
        )
        id = _deployment_id(request.name)
        size = names.page_size(request.page_size, 100, MOST_IN_PAGE)
        after = _event_number(request.page_token)
        events = await self._deployments.history(id, after=after, limit=size + 1)
        token = names.page_token(str(events[size - 1].number)) if len(events) > size else ""
        messages = [event_message(event) for event in events[:size]]
        return pb.ListDeploymentEventsResponse(events=messages, next_page_token=token)

    async def _servers(self, request: pb.ListServersRequest, call: Call) -> pb.ListServersResponse:
        servers = sorted(await self._runtime.servers(), key=lambda server: server.name)
        return pb.ListServersResponse(servers=[server_message(server) for server in servers])

    def _message(self, stored: Stored[Deployment]) -> deployment_pb.Deployment:
        return deployment_message(stored, self._inventory.reachability)


async def reached(deployments: Deployments, asked: Stored[Deployment]) -> Stored[Deployment]:
    """Wait until a deployment has reached the target that it had when `asked` was written, also
    while the store does not answer.

    Raises DeploymentFailed, Superseded. Otherwise it ends by the caller's deadline: cancellation.
    """
    spec = asked.value.spec
    while True:
        changed = deployments.changed()
        try:
            stored = await deployments.get(asked.value.id)
        except StoreUnavailable:
            # The command is recorded already: there is nothing to repeat.
            await first_of(changed.wait(), timeout_s=STORE_PAUSE_S)
            continue
        if stored is None:
            raise DeploymentNotFound(f"deployment {asked.value.id!r} is gone")
        now = stored.value
        if replace(now.spec, generation=spec.generation) != spec:
            raise Superseded(f"meanwhile {now.spec.target.name} was asked of {now.id!r}")
        if now.state is _REACHED[spec.target]:
            return stored
        if now.state is State.FAILED:
            raise DeploymentFailed(f"deployment {now.id!r} failed: {now.detail}")
        if now.trouble and now.spec.target is not Target.ABSENT:
            text = f"deployment {now.id!r} is not there yet: {now.trouble}"
            raise DeploymentFailed(f"{text}; further attempts follow")
        await changed.wait()


def _deployment_id(name: str) -> str:
    return names.id_in(name, names.DEPLOYMENTS, "name", names.LONGEST_DEPLOYMENT_ID)


def _request_id(text: str) -> str:
    return names.checked_token(text, "request_id", 64)


def _state(number: int, index: int) -> State:
    for state, known in STATES.items():
        if known == number:
            return state
    raise InvalidRequest.of(f"states[{index}]", f"is {number}; no such state")


def _event_number(page_token: str) -> int:
    after = names.after_of(page_token)
    if after and not (after.isascii() and after.isdecimal() and len(after) < 16):
        raise InvalidRequest.of("page_token", "is not one of this history")
    return int(after or 0)


def _check_update(request: pb.UpdateDeploymentRequest) -> None:
    """Raises InvalidRequest with every wrong field."""
    violations = Violations()
    violations.check(lambda: _deployment_id(request.name))
    violations.check(lambda: _request_id(request.request_id))
    for index, path in enumerate(request.update_mask.paths):
        if path != "replica_count":
            text = f"is {path[:60]!r}; expected 'replica_count', which alone can be changed"
            violations.add(f"update_mask.paths[{index}]", text)
    violations.extend(check_replicas(request.replica_count))
    violations.raise_any()


def _check_create(request: pb.CreateDeploymentRequest) -> None:
    """Raises InvalidRequest with every wrong field."""
    violations = Violations()
    violations.check(lambda: _request_id(request.request_id))
    if request.deployment_id:
        most = names.LONGEST_DEPLOYMENT_ID
        violations.check(lambda: names.checked_id(request.deployment_id, "deployment_id", most))
    violations.check(lambda: names.checked_token(request.model, "model", 128))
    if not request.model:
        violations.add("model", "is empty; expected the name of a registered model")
    if request.replica_count:
        violations.extend(check_replicas(request.replica_count))
    violations.extend(check_limits(request.limits))
    violations.raise_any()
