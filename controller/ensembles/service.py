"""EnsembleService: messages to verbs and back, and nothing else."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from trillium.controller.v1 import ensemble_service_pb2 as pb
from trillium.errors import EnsembleFailed, Superseded
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.violations import check_all
from trillium.waking import first_of

from .. import names
from ..deployments.document import Deployment, State, Target
from ..deployments.repository import Deployments
from ..requests import Requests
from ..store.port import StoreError, StoreUnavailable
from ..store.records import Stored
from . import verbs
from .applying import (
    ModelVersions,
    application_of,
    ensemble_id,
    id_of,
    revision_in,
    update_of,
)
from .document import EnsembleDocument, Owned
from .messages import ensemble_message, revision_message
from .owned import OwnedDeployments
from .planning import plan_message
from .repository import EnsembleRepository

ENSEMBLE_SERVICE = "trillium.controller.v1.EnsembleService"
MOST_IN_PAGE = 500
STORE_PAUSE_S = 0.5
"""Pause before a change that waits reads again, after the store did not answer."""


class EnsembleServicer:
    """Applies verbs and returns ensembles."""

    def __init__(
        self,
        ensembles: EnsembleRepository,
        deployments: Deployments,
        requests: Requests,
        models: ModelVersions,
    ) -> None:
        self._ensembles = ensembles
        self._deployments = deployments
        self._requests = requests
        self._models = models
        self._owned = OwnedDeployments(deployments)
        self._looking = asyncio.Lock()
        self.draining = asyncio.Event()
        """Set when the server is about to stop."""

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return service_of(
            pb.DESCRIPTOR.services_by_name["EnsembleService"],
            {
                "ApplyEnsemble": self._apply,
                "PlanEnsemble": self._plan,
                "RollBackEnsemble": self._roll_back,
                "UpdateEnsemble": self._update,
                "DeleteEnsemble": self._delete,
                "GetEnsemble": self._get,
                "ListEnsembles": self._list,
                "ListEnsembleRevisions": self._revisions,
                "GetEnsembleRevision": self._revision,
            },
        )

    async def _apply(self, request: pb.ApplyEnsembleRequest, call: Call) -> pb.Ensemble:
        id = ensemble_id(request.ensemble_id)
        stored = await self._ensembles.get(id)
        known = None if stored is None else stored.value
        application = await application_of(request, known, self._models)
        await self._requests.check(request.request_id, names.request_digest(request))
        again = _has_failed(await self._of(id))
        stored = await self._ensembles.apply(
            replace(application, again=again), life=secrets.token_hex(3)
        )
        return await self._answer(stored, wait=not request.no_wait)

    async def _plan(self, request: pb.PlanEnsembleRequest, call: Call) -> pb.PlanEnsembleResponse:
        id = ensemble_id(request.apply.ensemble_id, "apply.ensemble_id")
        stored = await self._ensembles.get(id)
        known = None if stored is None else stored.value
        application = await application_of(request.apply, known, self._models)
        after = self._ensembles.applied(replace(application, request_id=""), known)
        return plan_message(known, after)

    async def _roll_back(self, request: pb.RollBackEnsembleRequest, call: Call) -> pb.Ensemble:
        check_all(lambda: id_of(request.name), lambda: _request_id(request.request_id))
        id = id_of(request.name)
        await self._requests.check(request.request_id, names.request_digest(request))
        stored = await self._ensembles.roll_back(id, request.revision, request.request_id)
        return await self._answer(stored, wait=not request.no_wait)

    async def _update(self, request: pb.UpdateEnsembleRequest, call: Call) -> pb.Ensemble:
        id = id_of(request.name)
        known = await self._ensembles.known(id)
        change = update_of(request, known.value)
        await self._requests.check(request.request_id, names.request_digest(request))
        stored = await self._ensembles.update(id, change)
        return await self._answer(stored, wait=not request.no_wait)

    async def _delete(
        self, request: pb.DeleteEnsembleRequest, call: Call
    ) -> pb.DeleteEnsembleResponse:
        id = id_of(request.name)
        await self._ensembles.known(id)
        deployments = [names.DEPLOYMENTS + each for each in await self._of(id)]
        if not request.validate_only:
            stored = await self._ensembles.end(id)
            if not request.no_wait:
                await self._gone(stored)
        return pb.DeleteEnsembleResponse(deployments=deployments)

    async def _get(self, request: pb.GetEnsembleRequest, call: Call) -> pb.Ensemble:
        id = id_of(request.name)
        stored = await self._ensembles.known(id)
        return ensemble_message(stored.value, await self._of(id))

    async def _list(self, request: pb.ListEnsemblesRequest, call: Call) -> pb.ListEnsemblesResponse:
        check_all(
            lambda: names.page_size(request.page_size, 100, MOST_IN_PAGE),
            lambda: names.after_of(request.page_token),
        )
        size = names.page_size(request.page_size, 100, MOST_IN_PAGE)
        page = await self._ensembles.page(after=names.after_of(request.page_token), limit=size + 1)
        await self._look()
        token = names.page_token(page[size - 1].id) if len(page) > size else ""
        return pb.ListEnsemblesResponse(
            ensembles=[
                ensemble_message(stored.value, self._owned.of(stored.id)) for stored in page[:size]
            ],
            next_page_token=token,
            unreadable=names.unreadable(self._ensembles, names.ENSEMBLES, request.page_token),
        )

    async def _revisions(
        self, request: pb.ListEnsembleRevisionsRequest, call: Call
    ) -> pb.ListEnsembleRevisionsResponse:
        ensemble = (await self._ensembles.known(id_of(request.name))).value
        return pb.ListEnsembleRevisionsResponse(
            revisions=[revision_message(ensemble, each) for each in reversed(ensemble.revisions)]
        )

    async def _revision(
        self, request: pb.GetEnsembleRevisionRequest, call: Call
    ) -> pb.EnsembleRevision:
        id, number = revision_in(request.name)
        ensemble = (await self._ensembles.known(id)).value
        return revision_message(ensemble, verbs.revision_of(ensemble, number))

    async def _look(self) -> None:
        async with self._looking:
            await self._owned.look()

    async def _of(self, id: str) -> dict[str, Deployment]:
        await self._look()
        return self._owned.of(id)

    async def _answer(self, asked: Stored[EnsembleDocument], *, wait: bool) -> pb.Ensemble:
        """The ensemble as its message; with `wait` once it is what was asked for.

        Raises EnsembleFailed, Superseded. Otherwise it ends by the caller's deadline: cancellation.
        """
        while wait:
            changed = self._ensembles.changed(), self._deployments.changed()
            try:
                owned = await self._of(asked.id)
                stored = await self._ensembles.get(asked.id)
            except StoreUnavailable:
                # The change is recorded already: there is nothing to repeat.
                await first_of(changed[0].wait(), timeout_s=STORE_PAUSE_S)
                continue
            if is_reached(asked, stored, owned):
                assert stored is not None
                return ensemble_message(stored.value, owned)
            await first_of(*(each.wait() for each in changed))
        return ensemble_message(asked.value, await self._of(asked.id))

    async def _gone(self, asked: Stored[EnsembleDocument]) -> None:
        """Wait until an ensemble is no more."""
        while True:
            changed = self._ensembles.changed()
            try:
                stored = await self._ensembles.get(asked.id)
            except StoreError:
                await first_of(changed.wait(), timeout_s=STORE_PAUSE_S)
                continue
            if stored is None or stored.value.life != asked.value.life:
                return
            await changed.wait()


def is_reached(
    asked: Stored[EnsembleDocument], stored: Stored[EnsembleDocument] | None, owned: Owned
) -> bool:
    """Whether an ensemble has become what it was to become when `asked` was written.

    Raises Superseded, EnsembleFailed.
    """
    was = asked.value
    if stored is None or stored.value.life != was.life:
        raise Superseded(f"ensemble {asked.id!r} was deleted meanwhile")
    now = stored.value
    if now.generation != was.generation:
        raise Superseded(f"another change of ensemble {asked.id!r} came meanwhile")
    if now.wanted != was.wanted:
        failures = [
            f"revision {each.number}: {each.failure}" for each in now.revisions if each.failure
        ]
        goes_on = "what served before goes on" if now.serving else "no revision serves"
        text = f"ensemble {asked.id!r} cannot be prepared: {'; '.join(failures[-1:])}"
        raise EnsembleFailed(f"{text}; {goes_on}")
    held = {hold.deployment: hold for hold in now.holds}
    for id, hold in held.items():
        deployment = owned.get(id)
        if deployment is None:
            continue
        is_settled = now.serving == now.wanted and now.retry_id in deployment.requests
        if deployment.state is State.FAILED and is_settled:
            text = f"ensemble {asked.id!r}: {hold.class_label}: {deployment.detail}"
            raise EnsembleFailed(text)
        if deployment.trouble:
            text = f"ensemble {asked.id!r} is not there yet: {hold.class_label}"
            raise EnsembleFailed(f"{text}: {deployment.trouble}; further attempts follow")
    serving = now.wanted if now.target is Target.LOADED else ()
    if now.serving != serving:
        return False
    state = State.LOADED if now.target is Target.LOADED else State.CREATED
    return all(
        (there := owned.get(id)) is not None
        and there.state is state
        and there.spec.replicas == now.resources_of(hold.class_label).replicas
        for id, hold in held.items()
    ) and bool(held)


def _has_failed(owned: Owned) -> bool:
    return any(each.state is State.FAILED for each in owned.values())


def _request_id(text: str) -> str:
    return names.checked_token(text, "request_id", 64)
