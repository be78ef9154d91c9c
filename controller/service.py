"""ControllerService: messages to wishes and back, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Protocol

from controller import names
from controller.deployment import Deployment, Spec, State, Target
from controller.deployments import Deployments, Stored
from controller.looking import Looker
from controller.messages import (
    STATES,
    deployment_message,
    event_message,
    server_message,
)
from controller.requests import Requests
from controller.runtime.port import Runtime
from controller.store.port import StoreUnavailable
from controller.verbs import Verb, Wish
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.errors import (
    DeploymentFailed,
    DeploymentNotFound,
    Draining,
    InvalidRequest,
    Superseded,
    Violation,
)
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, unary_stream, unary_unary
from trillium.waking import first_of

CONTROLLER_SERVICE = "trillium.controller.v1.ControllerService"
MAX_REPLICAS = 64
MOST_IN_PAGE = 500
MIN_MEMORY_BYTES = 64 * 1024 * 1024
STORE_PAUSE_S = 0.5
"""Pause before a verb that waits reads again, after the store did not answer."""

_REACHED = {
    Target.ABSENT: State.TERMINATED,
    Target.CREATED: State.CREATED,
    Target.LOADED: State.LOADED,
}


class Specs(Protocol):
    """Who knows the models."""

    async def spec(self, model: str, version: int) -> Spec:
        """A spec for that version of a model, 0 meaning the newest; raises ModelNotFound."""
        ...


class ControllerServicer:
    """Carries out verbs and tells of deployments."""

    def __init__(
        self,
        deployments: Deployments,
        requests: Requests,
        specs: Specs,
        looker: Looker,
        runtime: Runtime,
    ) -> None:
        self._deployments = deployments
        self._requests = requests
        self._specs = specs
        self._looker = looker
        self._runtime = runtime
        self.draining = asyncio.Event()
        """Set when the server is about to stop: watches then end."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return Service(
            CONTROLLER_SERVICE,
            (
                unary_unary("CreateDeployment", pb.CreateDeploymentRequest, self._create),
                unary_unary("LoadDeployment", pb.LoadDeploymentRequest, self._load),
                unary_unary("UnloadDeployment", pb.UnloadDeploymentRequest, self._unload),
                unary_unary("TerminateDeployment", pb.TerminateDeploymentRequest, self._terminate),
                unary_unary("GetDeployment", pb.GetDeploymentRequest, self._get),
                unary_unary("ListDeployments", pb.ListDeploymentsRequest, self._list),
                unary_stream("WatchDeployments", pb.WatchDeploymentsRequest, self._watch),
                unary_unary("ListDeploymentEvents", pb.ListDeploymentEventsRequest, self._events),
                unary_unary("ListServers", pb.ListServersRequest, self._servers),
            ),
        )

    async def _create(
        self, request: pb.CreateDeploymentRequest, call: Call
    ) -> deployment_pb.Deployment:
        _check_create(request)
        await self._requests.check(request.request_id, request)
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
        wish = Wish(Verb.CREATE, id, spec, request.request_id)
        return await self._carry_out(wish, wait=not request.no_wait)

    async def _load(
        self, request: pb.LoadDeploymentRequest, call: Call
    ) -> deployment_pb.Deployment:
        id = _deployment_id(request.name)
        _request_id(request.request_id)
        names.checked_token(request.model, "model", 128)
        await self._requests.check(request.request_id, request)
        stored = await self._deployments.get(id)
        known = None if stored is None else stored.deployment
        spec = await self._spec_to_load(request, known)
        wish = Wish(Verb.LOAD, id, spec, request.request_id)
        return await self._carry_out(wish, wait=not request.no_wait)

    async def _spec_to_load(
        self, request: pb.LoadDeploymentRequest, known: Deployment | None
    ) -> Spec | None:
        """The spec that a load asks for; None to leave what the deployment has."""
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
        id = _deployment_id(request.name)
        _request_id(request.request_id)
        await self._requests.check(request.request_id, request)
        wish = Wish(verb, id, None, request.request_id)
        return await self._carry_out(wish, wait=not request.no_wait)

    async def _carry_out(self, wish: Wish, *, wait: bool) -> deployment_pb.Deployment:
        stored = await self._deployments.carry_out(wish)
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
        size = names.page_size(request.page_size, 100, MOST_IN_PAGE)
        states = [_state(number, index) for index, number in enumerate(request.states)]
        page = await self._deployments.page(
            after=names.after_of(request.page_token),
            limit=size + 1,
            states=states,
            model=request.model,
        )
        token = names.page_token(page[size - 1].deployment.id) if len(page) > size else ""
        messages = [self._message(stored) for stored in page[:size]]
        return pb.ListDeploymentsResponse(deployments=messages, next_page_token=token)

    async def _watch(
        self, request: pb.WatchDeploymentsRequest, call: Call
    ) -> AsyncGenerator[pb.WatchDeploymentsResponse]:
        only = _deployment_id(request.name) if request.name else ""
        told = dict(request.known_revisions)
        if only:
            told = {name: rev for name, rev in told.items() if name == request.name}
        complete = False
        while True:
            changed = self._deployments.changed()
            present = set()
            # A list, since a watch may be cancelled in any of the yields below.
            for stored in [each async for each in self._deployments.all()]:
                name = names.DEPLOYMENTS + stored.deployment.id
                if only and stored.deployment.id != only:
                    continue
                present.add(name)
                if told.get(name) != stored.rev:
                    told[name] = stored.rev
                    yield pb.WatchDeploymentsResponse(deployment=self._message(stored))
            for name in set(told) - present:
                del told[name]
                yield pb.WatchDeploymentsResponse(forgotten=name)
            if not complete:
                complete = True
                yield pb.WatchDeploymentsResponse(snapshot_end=pb.SnapshotEnd())
            await first_of(changed.wait(), self.draining.wait())
            if self.draining.is_set():
                raise Draining(
                    "the controller stops; watch again with the revisions that are known"
                )

    async def _events(
        self, request: pb.ListDeploymentEventsRequest, call: Call
    ) -> pb.ListDeploymentEventsResponse:
        id = _deployment_id(request.name)
        size = names.page_size(request.page_size, 100, MOST_IN_PAGE)
        after = names.after_of(request.page_token)
        if after and not (after.isascii() and after.isdecimal() and len(after) < 16):
            raise InvalidRequest.of("page_token", "is none of this history")
        events = await self._deployments.history(id, after=int(after or 0), limit=size + 1)
        token = names.page_token(str(events[size - 1].number)) if len(events) > size else ""
        messages = [event_message(event) for event in events[:size]]
        return pb.ListDeploymentEventsResponse(events=messages, next_page_token=token)

    async def _servers(self, request: pb.ListServersRequest, call: Call) -> pb.ListServersResponse:
        servers = sorted(await self._runtime.servers(), key=lambda server: server.name)
        return pb.ListServersResponse(servers=[server_message(server) for server in servers])

    def _message(self, stored: Stored) -> deployment_pb.Deployment:
        return deployment_message(stored, self._looker.reachability)


async def reached(deployments: Deployments, asked: Stored) -> Stored:
    """Wait until a deployment is what was wanted of it when `asked` was written, also while the
    store does not answer.

    Raises DeploymentFailed, Superseded. Otherwise it ends by the caller's deadline: cancellation.
    """
    spec = asked.deployment.spec
    while True:
        changed = deployments.changed()
        try:
            stored = await deployments.get(asked.deployment.id)
        except StoreUnavailable:
            # What was asked is written down already: there is nothing to ask again.
            await first_of(changed.wait(), timeout_s=STORE_PAUSE_S)
            continue
        if stored is None:
            raise DeploymentNotFound(f"deployment {asked.deployment.id!r} is gone")
        now = stored.deployment
        if replace(now.spec, generation=spec.generation) != spec:
            raise Superseded(f"meanwhile {now.spec.target.name} was asked of {now.id!r}")
        if now.state is _REACHED[spec.target]:
            return stored
        if now.state is State.FAILED:
            raise DeploymentFailed(f"deployment {now.id!r} failed: {now.detail}")
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


def _check_create(request: pb.CreateDeploymentRequest) -> None:
    """Raises InvalidRequest with every wrong field."""
    wrong: list[Violation] = []
    checks: list[Callable[[], object]] = [lambda: _request_id(request.request_id)]
    if request.deployment_id:
        most = names.LONGEST_DEPLOYMENT_ID
        checks.append(lambda: names.checked_id(request.deployment_id, "deployment_id", most))
    checks.append(lambda: names.checked_token(request.model, "model", 128))
    for check in checks:
        try:
            check()
        except InvalidRequest as error:
            wrong += error.violations
    if not request.model:
        wrong.append(Violation("model", "is empty; the name of a registered model is wanted"))
    if request.replica_count > MAX_REPLICAS:
        text = f"is {request.replica_count}; 1 to {MAX_REPLICAS} allowed"
        wrong.append(Violation("replica_count", text))
    limits = request.limits
    if limits.HasField("cpus") and not 0.1 <= limits.cpus <= 64:
        wrong.append(Violation("limits.cpus", f"is {limits.cpus:g}; 0.1 to 64 allowed"))
    if limits.HasField("memory_bytes") and not limits.memory_bytes >= MIN_MEMORY_BYTES:
        text = f"is {limits.memory_bytes}; {MIN_MEMORY_BYTES} and more allowed"
        wrong.append(Violation("limits.memory_bytes", text))
    if wrong:
        raise InvalidRequest(wrong)
