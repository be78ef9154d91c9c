"""Orders of runs: checked, and made into the run that will be carried out."""

from __future__ import annotations

from datetime import timedelta

from trillium.errors import DeploymentNotFound, IllegalStep, InvalidRequest
from trillium.rows import WIRE_DTYPE

from ..deployments.document import Deployment, State
from ..deployments.repository import Deployments
from ..store.codec import to_milliseconds
from ..store.records import Stored
from .repository import Runs
from .run import Order, Run
from .source import ScoringModel, Source, fitting_columns

RETENTION = timedelta(days=7)
"""How long a run and its results stay after its deadline."""
CHUNK_ROWS = 1000
CHUNK_BYTES = 8 * 2**20
"""Rows of many features are sent fewer at a time, to keep below this."""
OWN_DEPLOYMENT = "run-"
"""With the id of a run behind it: the id of the deployment that is its own."""


class RunOrders:
    """Takes orders for the runs of one store."""

    def __init__(
        self,
        runs: Runs,
        deployments: Deployments,
        source: Source,
        *,
        retention: timedelta = RETENTION,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        self._runs = runs
        self._deployments = deployments
        self._source = source
        self._retention = retention
        self._chunk_rows = chunk_rows

    async def place(self, order: Order, id: str) -> Stored[Run]:
        """The run of that id, written down if it is not there yet.

        Raises RunExists if it is there with another order, ModelNotFound, DatasetNotFound,
        DeploymentNotFound, IllegalStep for a deployment that is not loaded, InvalidRequest for what
        does not fit together. Whoever repeats an order gets the run, whatever has changed since.
        """
        stored = await self._runs.existing(id, order)
        return stored or await self._runs.create(await self._planned(order, id))

    async def _planned(self, order: Order, id: str) -> Run:
        served = await self._served(order) if order.deployment else None
        version = order.model_version
        if served is not None and not version:
            version = served.spec.version
        model = await self._source.model_version(order.model, version)
        if served is not None:
            _check_serves(served, model)
        data = await self._source.dataset(order.dataset, order.dataset_version)
        fitting_columns(model, data)
        now = self._runs.now()
        deadline = to_milliseconds(now + timedelta(seconds=order.timeout_s))
        return Run(
            id=id,
            order=order,
            model=order.model,
            model_version=model.spec.version,
            digest=model.spec.digest,
            class_label=model.spec.class_label,
            dataset=data.name,
            dataset_version=data.version,
            labelled=data.labelled,
            deployment=order.deployment or OWN_DEPLOYMENT + id,
            temporary=not order.deployment,
            rows_total=data.row_count,
            chunk_rows=_chunk_rows(self._chunk_rows, data.feature_count),
            created=now,
            deadline=deadline,
            expires=to_milliseconds(deadline + self._retention),
        )

    async def _served(self, order: Order) -> Deployment:
        """The deployment whose predictors are to be used."""
        stored = await self._deployments.get(order.deployment)
        if stored is None:
            raise DeploymentNotFound(f"there is no deployment {order.deployment!r}")
        deployment = stored.value
        named = f"deployment {deployment.id!r}"
        if deployment.run:
            raise IllegalStep(f"{named} is run {deployment.run!r}'s own; use another one")
        if deployment.state is not State.LOADED:
            raise IllegalStep(f"{named} is {deployment.state.value}; load it first")
        if deployment.spec.model != order.model:
            text = f"serves model {deployment.spec.model!r}, not {order.model!r}"
            raise InvalidRequest.of("deployment", text)
        return deployment


def _check_serves(deployment: Deployment, model: ScoringModel) -> None:
    if deployment.spec.digest != model.spec.digest:
        serves = f"deployment {deployment.id!r} serves version {deployment.spec.version}"
        raise InvalidRequest.of("model_version", f"is {model.spec.version}; {serves}")


def _chunk_rows(most: int, feature_count: int) -> int:
    row_bytes = max(1, feature_count) * WIRE_DTYPE.itemsize
    return max(1, min(most, CHUNK_BYTES // row_bytes))
