"""The blocking client of a controller: deployments, runs, models and datasets.

It answers the messages of `trillium.controller.v1` as they are, so what they hold is described in
one place, their protos. Names may be given with or without their prefix ("a1" is "deployments/a1").
Errors are those of `trillium.errors`, as the controller raised them, or Unreachable,
DeadlineExceeded, Cancelled or RemoteError for what happened on the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc

from trillium import wire
from trillium.config import address as checked_address
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.rpc.channels import sync_client_channel

DEFAULT_ADDRESS = "127.0.0.1:50052"
DEFAULT_TIMEOUT_S = 10.0
VERB_TIMEOUT_S = 120.0
"""Verbs wait until predictors have started or loaded, which takes long on a busy machine."""
RUN_TIMEOUT_S = 3600.0
"""As long as a run may take that does not say otherwise."""
DEPLOYMENTS, RUNS = "deployments/", "runs/"

FORMATS = {
    ".csv": catalog_pb.DATASET_FORMAT_CSV,
    ".npy": catalog_pb.DATASET_FORMAT_NPY,
    ".parquet": catalog_pb.DATASET_FORMAT_PARQUET,
}
"""What the end of a dataset's file name stands for."""
_CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Told the bytes that were sent and those that there are."""
T = TypeVar("T")


class ControllerClient:
    """A blocking client. Safe to share between threads; `close` it, or use it in a `with`."""

    def __init__(self, address: str = DEFAULT_ADDRESS, *, timeout_s: float | None = None) -> None:
        """Nothing is sent yet: the connection is made by the first call, and again when it broke.

        `address` is `host:port` or `unix:/path`, else ValueError. `timeout_s` is the time in
        seconds that any call gets; without it a question gets 10 s, a verb 120 s, and a run an
        hour. When it passes, a verb's or a run's work goes on: a deadline undoes nothing.
        """
        self._address = checked_address(address)
        self._timeout_s = None if timeout_s is None else wire.time_limit(timeout_s)
        self._channel = sync_client_channel(address)
        self._deployments: ControllerServiceStub = ControllerServiceStub(self._channel)
        self._catalog: CatalogServiceStub = CatalogServiceStub(self._channel)
        self._runs: RunServiceStub = RunServiceStub(self._channel)
        self._check = self._channel.unary_unary(wire.HEALTH_CHECK, *wire.HEALTH_TYPES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """Where the controller is said to listen."""
        return self._address

    def close(self) -> None:
        """Close the connection; calls under way end with Cancelled."""
        self._channel.close()

    # Deployments

    def create(
        self,
        model: str,
        *,
        id: str = "",
        version: int = 0,
        replicas: int = 1,
        cpus: float | None = None,
        memory_bytes: int | None = None,
        wait: bool = True,
        request_id: str = "",
    ) -> deployment_pb.Deployment:
        """Have predictors started for a model, and answer when they are up, without the model.

        Args:
            model: name of a registered model.
            id: of the deployment; empty has one made up.
            version: of the model; 0 means the newest.
            replicas: number of predictors, 1 to 64.
            cpus: cores that each may use, 0.1 to 64; None means no limit.
            memory_bytes: what each may use, 64 MiB and more; None means no limit.
            wait: False answers as soon as the wish is written down.
            request_id: makes it safe to send the same request again.

        Raises:
            ModelNotFound, DeploymentExists, DeploymentFailed, RequestIdReused, Superseded.
            InvalidRequest: with every violation found.
        """
        request = pb.CreateDeploymentRequest(
            deployment_id=id,
            model=model,
            model_version=version,
            replica_count=replicas,
            limits=deployment_pb.Limits(cpus=cpus, memory_bytes=memory_bytes),
            request_id=request_id,
            no_wait=not wait,
        )
        return self._ask(self._deployments.CreateDeployment, request, VERB_TIMEOUT_S)

    def load(
        self,
        id: str,
        *,
        model: str = "",
        version: int = 0,
        newest: bool = False,
        wait: bool = True,
        request_id: str = "",
    ) -> deployment_pb.Deployment:
        """Have a deployment serve its model; one that was never created is, with `model`.

        With another `version` than is loaded, or `newest`, the predictors are given that one after
        the other, and no call fails. Errors as for `create`, and DeploymentNotFound.
        """
        request = pb.LoadDeploymentRequest(
            name=_prefixed(DEPLOYMENTS, id),
            model=model,
            model_version=version,
            newest_version=newest,
            request_id=request_id,
            no_wait=not wait,
        )
        return self._ask(self._deployments.LoadDeployment, request, VERB_TIMEOUT_S)

    def unload(
        self, id: str, *, wait: bool = True, request_id: str = ""
    ) -> deployment_pb.Deployment:
        """Withdraw the endpoints, wait for the requests in flight, and free the model."""
        request = pb.UnloadDeploymentRequest(
            name=_prefixed(DEPLOYMENTS, id), request_id=request_id, no_wait=not wait
        )
        return self._ask(self._deployments.UnloadDeployment, request, VERB_TIMEOUT_S)

    def terminate(
        self, id: str, *, wait: bool = True, request_id: str = ""
    ) -> deployment_pb.Deployment:
        """Unload if needed, and remove the predictors."""
        request = pb.TerminateDeploymentRequest(
            name=_prefixed(DEPLOYMENTS, id), request_id=request_id, no_wait=not wait
        )
        return self._ask(self._deployments.TerminateDeployment, request, VERB_TIMEOUT_S)

    def deployment(self, id: str) -> deployment_pb.Deployment:
        """One deployment; raises DeploymentNotFound."""
        request = pb.GetDeploymentRequest(name=_prefixed(DEPLOYMENTS, id))
        return self._ask(self._deployments.GetDeployment, request, DEFAULT_TIMEOUT_S)

    def deployments(
        self, *, states: Sequence[deployment_pb.State.ValueType] = (), model: str = ""
    ) -> Iterator[deployment_pb.Deployment]:
        """Deployments in the order of their ids, read page by page; empty filters mean any."""
        request = pb.ListDeploymentsRequest(page_size=500, states=states, model=model)
        for page in self._pages(self._deployments.ListDeployments, request):
            yield from page.deployments

    def watch_deployments(self, id: str = "") -> Iterator[pb.WatchDeploymentsResponse]:
        """One deployment, or all, then each change, until the iterator is closed."""
        name = _prefixed(DEPLOYMENTS, id) if id else ""
        return self._stream(
            self._deployments.WatchDeployments, pb.WatchDeploymentsRequest(name=name)
        )

    def events(self, id: str) -> Iterator[pb.DeploymentEvent]:
        """What happened to a deployment, oldest first, read page by page."""
        request = pb.ListDeploymentEventsRequest(name=_prefixed(DEPLOYMENTS, id), page_size=500)
        for page in self._pages(self._deployments.ListDeploymentEvents, request):
            yield from page.events

    def servers(self) -> list[pb.Server]:
        """The machines or engines that run predictors."""
        request = pb.ListServersRequest()
        answer = self._ask(self._deployments.ListServers, request, DEFAULT_TIMEOUT_S)
        return list(answer.servers)

    # Runs

    def run(
        self,
        model: str,
        dataset: str,
        *,
        id: str = "",
        model_version: int = 0,
        dataset_version: int = 0,
        deployment: str = "",
        run_timeout_s: float = RUN_TIMEOUT_S,
        wait: bool = True,
        request_id: str = "",
    ) -> run_pb.Run:
        """Score a dataset with a model, and answer when that has ended, well or not.

        Args:
            model: name of a registered model.
            dataset: name of a registered dataset.
            id: of the run; empty has one made up.
            model_version, dataset_version: 0 means the newest.
            deployment: id of loaded predictors to use; empty makes one for this run (TEMP).
            run_timeout_s: seconds that the run may take, 1 ms to 24 h.
            wait: False answers as soon as the run is written down.
            request_id: makes it safe to send the same request again.
        """
        request = run_pb.CreateRunRequest(
            model=model,
            model_version=model_version,
            dataset=dataset,
            dataset_version=dataset_version,
            deployment=_prefixed(DEPLOYMENTS, deployment) if deployment else "",
            run_id=id,
            request_id=request_id,
            no_wait=not wait,
        )
        request.timeout.FromNanoseconds(round(wire.time_limit(run_timeout_s) * 1e9))
        limit = run_timeout_s + DEFAULT_TIMEOUT_S if wait else DEFAULT_TIMEOUT_S
        return self._ask(self._runs.CreateRun, request, limit)

    def get_run(self, id: str) -> run_pb.Run:
        """One run; raises RunNotFound."""
        request = run_pb.GetRunRequest(name=_prefixed(RUNS, id))
        return self._ask(self._runs.GetRun, request, DEFAULT_TIMEOUT_S)

    def runs(
        self, *, states: Sequence[run_pb.RunState.ValueType] = (), model: str = ""
    ) -> Iterator[run_pb.Run]:
        """Runs in the order of their ids, read page by page; empty filters mean any."""
        request = run_pb.ListRunsRequest(page_size=1000, states=states, model=model)
        for page in self._pages(self._runs.ListRuns, request):
            yield from page.runs

    def watch_run(self, id: str) -> Iterator[run_pb.Run]:
        """A run as it is, then each change of it; the last one has ended."""
        request = run_pb.WatchRunRequest(name=_prefixed(RUNS, id))
        for answer in self._stream(self._runs.WatchRun, request):
            yield answer.run

    def cancel_run(self, id: str) -> run_pb.Run:
        """End a run; one that has ended already is left as it is."""
        request = run_pb.CancelRunRequest(name=_prefixed(RUNS, id))
        return self._ask(self._runs.CancelRun, request, VERB_TIMEOUT_S)

    def results(self, id: str, *, first_row: int = 0) -> Iterator[run_pb.Result]:
        """The results of a run that has succeeded, row by row; else raises IllegalStep."""
        request = run_pb.StreamResultsRequest(run=_prefixed(RUNS, id), first_row=first_row)
        for answer in self._stream(self._runs.StreamResults, request):
            yield from answer.results

    # The catalog

    def models(self) -> Iterator[catalog_pb.Model]:
        """Models with all of their versions, in the order of their names."""
        request = catalog_pb.ListModelsRequest(page_size=1000)
        for page in self._pages(self._catalog.ListModels, request):
            yield from page.models

    def datasets(self) -> Iterator[catalog_pb.Dataset]:
        """Datasets with all of their versions, in the order of their names."""
        request = catalog_pb.ListDatasetsRequest(page_size=1000)
        for page in self._pages(self._catalog.ListDatasets, request):
            yield from page.datasets

    def register_model(
        self,
        name: str,
        artifact: Path,
        *,
        class_label: str = "",
        positive_column: int | None = None,
        output_name: str = "",
        progress: Progress | None = None,
    ) -> catalog_pb.RegisterModelResponse:
        """Upload an ONNX file as the next version of a model.

        The three options override what the artifact says of itself. Raises ModelRejected for what
        no predictor would take, InvalidRequest, DigestMismatch, and OSError for the file.
        """
        header = catalog_pb.RegisterModelHeader(
            name=name,
            class_label=class_label,
            positive_column=positive_column,
            output_name=output_name,
        )

        def messages() -> Iterator[catalog_pb.RegisterModelRequest]:
            yield catalog_pb.RegisterModelRequest(header=header)
            for chunk in _chunks(artifact, header.size_bytes, progress):
                yield catalog_pb.RegisterModelRequest(chunk=chunk)

        header.sha256, header.size_bytes = _measured(artifact)
        return self._ask(self._catalog.RegisterModel, messages(), VERB_TIMEOUT_S)

    def register_dataset(
        self, name: str, file: Path, *, progress: Progress | None = None
    ) -> catalog_pb.RegisterDatasetResponse:
        """Upload a CSV, NPY or Parquet file, told by the end of its name, as a dataset's next
        version. Raises ValueError for another end, InvalidRequest, and OSError for the file.
        """
        if file.suffix.lower() not in FORMATS:
            allowed = ", ".join(FORMATS)
            raise ValueError(f"the name of a dataset's file must end in {allowed}, not {file.name}")
        header = catalog_pb.RegisterDatasetHeader(name=name, format=FORMATS[file.suffix.lower()])

        def messages() -> Iterator[catalog_pb.RegisterDatasetRequest]:
            yield catalog_pb.RegisterDatasetRequest(header=header)
            for chunk in _chunks(file, header.size_bytes, progress):
                yield catalog_pb.RegisterDatasetRequest(chunk=chunk)

        header.sha256, header.size_bytes = _measured(file)
        return self._ask(self._catalog.RegisterDataset, messages(), VERB_TIMEOUT_S)

    # The way there

    def is_serving(self, service: str = "") -> bool:
        """Whether the controller says that it, or one of its services, serves; raises
        Unreachable or DeadlineExceeded when there is no answer.
        """
        return wire.is_serving(
            self._ask(self._check, wire.health_request(service), DEFAULT_TIMEOUT_S)
        )

    def _ask(self, method: Callable[..., T], request: Any, timeout_s: float) -> T:
        limit = self._timeout_s or timeout_s
        try:
            return method(request, timeout=limit)
        except grpc.RpcError as failure:
            raise wire.error_of(failure, self._address, limit) from failure

    def _pages(self, method: Any, request: Any) -> Iterator[Any]:
        """Every page that a listing has."""
        while True:
            page = self._ask(method, request, DEFAULT_TIMEOUT_S)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _stream(self, method: Any, request: Any) -> Iterator[Any]:
        """The answers of a stream, which has no deadline but the client's own."""
        call = method(request, timeout=self._timeout_s)
        try:
            yield from call
        except grpc.RpcError as failure:
            limit = self._timeout_s or 0.0
            raise wire.error_of(failure, self._address, limit) from failure
        finally:
            call.cancel()


def _prefixed(prefix: str, name: str) -> str:
    return name if name.startswith(prefix) else prefix + name


def _measured(file: Path) -> tuple[str, int]:
    """SHA-256 and size in bytes of a file."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        return digest, content.tell()


def _chunks(file: Path, size: int, progress: Progress | None) -> Iterator[bytes]:
    sent = 0
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK_BYTES):
            yield chunk
            sent += len(chunk)
            if progress is not None:
                progress(sent, size)
