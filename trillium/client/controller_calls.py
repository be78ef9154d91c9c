"""The calls of a controller as values: what each one sends, and how its answer is read.

`trillium.client.controller` has a blocking and an asyncio client, which send these values and share
everything else. Answers are the messages of `trillium.controller.v1`, whose protos describe them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from google.protobuf.field_mask_pb2 import FieldMask

from trillium.client import wire
from trillium.client.described import DEFAULT_TIMEOUT_S, VERB_TIMEOUT_S, Stream, Unary, prefixed
from trillium.client.ensemble_calls import EnsembleCalls
from trillium.controller.v1 import catalog_service_pb2 as catalog_pb
from trillium.controller.v1 import controller_service_pb2 as pb
from trillium.controller.v1 import deployment_pb2 as deployment_pb
from trillium.controller.v1 import run_service_pb2 as run_pb
from trillium.controller.v1.catalog_service_pb2_grpc import CatalogServiceStub
from trillium.controller.v1.controller_service_pb2_grpc import ControllerServiceStub
from trillium.controller.v1.run_service_pb2_grpc import RunServiceStub
from trillium.tables.dialect import DEFAULT, Dialect
from trillium.tables.reading import Format
from trillium.tables.sending import sendable

RUN_TIMEOUT_S = 3600.0
"""Default time limit of a run."""
DEPLOYMENTS, RUNS = "deployments/", "runs/"

_FORMATS = {
    Format.CSV: catalog_pb.DATASET_FORMAT_CSV,
    Format.NPY: catalog_pb.DATASET_FORMAT_NPY,
    Format.PARQUET: catalog_pb.DATASET_FORMAT_PARQUET,
}
_CHUNK_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the bytes sent so far and the size of the file; not on the caller's thread."""
T = TypeVar("T")


class ControllerCalls(EnsembleCalls):
    """Describes every call that a controller answers, on either kind of channel."""

    def __init__(self, channel: Any) -> None:
        super().__init__(channel)
        self._deployments: Any = ControllerServiceStub(channel)
        self._catalog: Any = CatalogServiceStub(channel)
        self._runs: Any = RunServiceStub(channel)
        self._check = channel.unary_unary(wire.HEALTH_CHECK, *wire.HEALTH_TYPES)

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
    ) -> Unary[deployment_pb.Deployment]:
        """Start predictors for a model; returns when they are up, without the model loaded.

        Args:
            model: name of a registered model.
            id: id of the deployment; generated if empty.
            version: version of the model; 0 means the newest.
            replicas: number of predictors, 1 to 64.
            cpus: CPU cores for each predictor, 0.1 to 64; None means no limit.
            memory_bytes: memory for each predictor, at least 64 MiB; None means no limit.
            wait: False returns once the request is recorded.
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
        return Unary(self._deployments.CreateDeployment, request, VERB_TIMEOUT_S)

    def load(
        self,
        id: str,
        *,
        model: str = "",
        version: int = 0,
        newest: bool = False,
        wait: bool = True,
        request_id: str = "",
    ) -> Unary[deployment_pb.Deployment]:
        """Load a deployment's model; with `model`, a missing deployment is created first.

        Another `version` than the loaded one, or `newest`, replaces the model in one predictor
        after the other, and no call fails. Raises the errors of `create`, and DeploymentNotFound.
        """
        request = pb.LoadDeploymentRequest(
            name=prefixed(DEPLOYMENTS, id),
            model=model,
            model_version=version,
            newest_version=newest,
            request_id=request_id,
            no_wait=not wait,
        )
        return Unary(self._deployments.LoadDeployment, request, VERB_TIMEOUT_S)

    def update(
        self, id: str, *, replicas: int, wait: bool = True, request_id: str = ""
    ) -> Unary[deployment_pb.Deployment]:
        """Change how many predictors a deployment has, 1 to 64, without a failed call.

        Raises DeploymentNotFound, IllegalStep for one that is terminated, and the errors of
        `create`.
        """
        request = pb.UpdateDeploymentRequest(
            name=prefixed(DEPLOYMENTS, id),
            replica_count=replicas,
            update_mask=FieldMask(paths=["replica_count"]),
            request_id=request_id,
            no_wait=not wait,
        )
        return Unary(self._deployments.UpdateDeployment, request, VERB_TIMEOUT_S)

    def unload(
        self, id: str, *, wait: bool = True, request_id: str = ""
    ) -> Unary[deployment_pb.Deployment]:
        """Withdraw the endpoints, wait for the requests in flight, and free the model."""
        request = pb.UnloadDeploymentRequest(
            name=prefixed(DEPLOYMENTS, id), request_id=request_id, no_wait=not wait
        )
        return Unary(self._deployments.UnloadDeployment, request, VERB_TIMEOUT_S)

    def terminate(
        self, id: str, *, wait: bool = True, request_id: str = ""
    ) -> Unary[deployment_pb.Deployment]:
        """Unload if needed, and remove the predictors."""
        request = pb.TerminateDeploymentRequest(
            name=prefixed(DEPLOYMENTS, id), request_id=request_id, no_wait=not wait
        )
        return Unary(self._deployments.TerminateDeployment, request, VERB_TIMEOUT_S)

    def deployment(self, id: str) -> Unary[deployment_pb.Deployment]:
        """Return one deployment; raises DeploymentNotFound."""
        request = pb.GetDeploymentRequest(name=prefixed(DEPLOYMENTS, id))
        return Unary(self._deployments.GetDeployment, request)

    def deployments(
        self, *, states: Sequence[deployment_pb.State.ValueType] = (), model: str = ""
    ) -> Stream[deployment_pb.Deployment]:
        """Iterate over deployments in the order of their ids; an empty filter matches all."""
        request = pb.ListDeploymentsRequest(page_size=500, states=states, model=model)
        method = self._deployments.ListDeployments
        return Stream(method, request, lambda page: page.deployments, is_paged=True)

    def watch_deployments(self, id: str = "") -> Stream[pb.WatchDeploymentsResponse]:
        """Iterate over one deployment, or all, then each change, until the iterator is closed."""
        name = prefixed(DEPLOYMENTS, id) if id else ""
        request = pb.WatchDeploymentsRequest(name=name)
        return Stream(self._deployments.WatchDeployments, request, lambda answer: (answer,))

    def events(self, id: str) -> Stream[pb.DeploymentEvent]:
        """Iterate over the history of a deployment, oldest first."""
        request = pb.ListDeploymentEventsRequest(name=prefixed(DEPLOYMENTS, id), page_size=500)
        method = self._deployments.ListDeploymentEvents
        return Stream(method, request, lambda page: page.events, is_paged=True)

    def servers(self) -> Unary[list[pb.Server]]:
        """Return the machines or engines that run predictors."""
        method, request = self._deployments.ListServers, pb.ListServersRequest()
        return Unary(method, request, read=lambda answer: list(answer.servers))

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
    ) -> Unary[run_pb.Run]:
        """Score a dataset with a model; returns when the run has ended, failed or not.

        Args:
            model: name of a registered model.
            dataset: name of a registered dataset.
            id: id of the run; generated if empty.
            model_version, dataset_version: 0 means the newest.
            deployment: id of a loaded deployment to use; empty starts a predictor for this run.
            run_timeout_s: time limit of the run in seconds, 1 ms to 24 h.
            wait: False returns once the run is recorded.
            request_id: makes it safe to send the same request again.
        """
        request = run_pb.CreateRunRequest(
            model=model,
            model_version=model_version,
            dataset=dataset,
            dataset_version=dataset_version,
            deployment=prefixed(DEPLOYMENTS, deployment) if deployment else "",
            run_id=id,
            request_id=request_id,
            no_wait=not wait,
        )
        request.timeout.FromNanoseconds(round(wire.time_limit(run_timeout_s) * 1e9))
        limit = run_timeout_s + DEFAULT_TIMEOUT_S if wait else DEFAULT_TIMEOUT_S
        return Unary(self._runs.CreateRun, request, limit)

    def get_run(self, id: str) -> Unary[run_pb.Run]:
        """Return one run; raises RunNotFound."""
        return Unary(self._runs.GetRun, run_pb.GetRunRequest(name=prefixed(RUNS, id)))

    def runs(
        self, *, states: Sequence[run_pb.RunState.ValueType] = (), model: str = ""
    ) -> Stream[run_pb.Run]:
        """Iterate over runs in the order of their ids; an empty filter matches all."""
        request = run_pb.ListRunsRequest(page_size=1000, states=states, model=model)
        return Stream(self._runs.ListRuns, request, lambda page: page.runs, is_paged=True)

    def watch_run(self, id: str) -> Stream[run_pb.Run]:
        """Iterate over the states of a run, from the current one to its end."""
        request = run_pb.WatchRunRequest(name=prefixed(RUNS, id))
        return Stream(self._runs.WatchRun, request, lambda answer: (answer.run,))

    def cancel_run(self, id: str) -> Unary[run_pb.Run]:
        """Cancel a run; a run that has ended stays as it is."""
        request = run_pb.CancelRunRequest(name=prefixed(RUNS, id))
        return Unary(self._runs.CancelRun, request, VERB_TIMEOUT_S)

    def delete_run(self, id: str, *, validate_only: bool = False) -> Unary[int]:
        """Delete a run that has ended, with its results; returns the number of rows that it had.

        With `validate_only`, only check that. Raises RunNotFound, and IllegalStep for a run that
        has not ended.
        """
        request = run_pb.DeleteRunRequest(name=prefixed(RUNS, id), validate_only=validate_only)
        return Unary(self._runs.DeleteRun, request, read=lambda answer: int(answer.deleted_rows))

    def results(self, id: str, *, first_row: int = 0) -> Stream[run_pb.Result]:
        """Iterate over the results of a run row by row; raises IllegalStep unless it succeeded."""
        request = run_pb.StreamResultsRequest(run=prefixed(RUNS, id), first_row=first_row)
        return Stream(self._runs.StreamResults, request, lambda answer: answer.results)

    # The catalog

    def models(self) -> Stream[catalog_pb.Model]:
        """Iterate over models with all their versions, in the order of their names."""
        request = catalog_pb.ListModelsRequest(page_size=1000)
        return Stream(self._catalog.ListModels, request, lambda page: page.models, is_paged=True)

    def refused_models(self) -> Unary[list[catalog_pb.RefusedModel]]:
        """Return the files of the models folder that the controller refused at its start."""
        method, request = self._catalog.ListRefusedModels, catalog_pb.ListRefusedModelsRequest()
        return Unary(method, request, read=lambda answer: list(answer.models))

    def datasets(self) -> Stream[catalog_pb.Dataset]:
        """Iterate over datasets with all their versions, in the order of their names."""
        request = catalog_pb.ListDatasetsRequest(page_size=1000)
        method = self._catalog.ListDatasets
        return Stream(method, request, lambda page: page.datasets, is_paged=True)

    def register_model(
        self,
        name: str,
        artifact: Path,
        *,
        class_label: str = "",
        positive_column: int | None = None,
        output_name: str = "",
        ensemble: str = "",
        class_labels: Sequence[str] = (),
        feature_names: Sequence[str] = (),
        sample: Sequence[float] = (),
        takes_missing: bool | None = None,
        progress: Progress | None = None,
    ) -> Unary[catalog_pb.RegisterModelResponse]:
        """Upload an ONNX file as the next version of a model.

        Args:
            name: of the model.
            artifact: path of the ONNX file.
            class_label: the class that it recognizes. This and all that follows, if given,
                overrides what the artifact declares.
            positive_column: column of the class's probability, 0 or 1.
            output_name: output of the graph with the probabilities; needed if several could be it.
            ensemble: name of the ensemble.
            class_labels: all classes of the ensemble, in order.
            feature_names: in column order.
            sample: a row to try, in feature order.
            takes_missing: whether a value of a row may be missing, which is NaN.
            progress: called with the bytes sent so far and their number.

        Raises:
            ModelRejected: no predictor could serve it.
            InvalidRequest, DigestMismatch.
            OSError: the file cannot be read.
        """
        header = catalog_pb.RegisterModelHeader(
            name=name,
            class_label=class_label,
            positive_column=positive_column,
            output_name=output_name,
            ensemble=ensemble,
            ensemble_class_labels=class_labels,
            feature_names=feature_names,
            sample=sample,
            takes_missing=takes_missing,
        )
        messages = _upload(
            catalog_pb.RegisterModelRequest, header, lambda: artifact.open("rb"), progress
        )
        return Unary(self._catalog.RegisterModel, messages, VERB_TIMEOUT_S, is_upload=True)

    def register_dataset(
        self,
        name: str,
        table: Path | Any,
        *,
        label_column: str = "",
        drop: Sequence[str] = (),
        dialect: Dialect = DEFAULT,
        progress: Progress | None = None,
    ) -> Unary[catalog_pb.RegisterDatasetResponse]:
        """Upload a file of rows, or a DataFrame, as the next version of a dataset.

        Args:
            name: of the dataset.
            table: a path whose name ends as `trillium.tables.reading` lists, such as .csv, .csv.gz
                or .parquet; or a DataFrame of pandas, polars or Arrow.
            label_column: the column of the true class; empty: "label", if there is one.
            drop: columns that are no features.
            dialect: how a CSV file is written; its delimiter is recognized otherwise.
            progress: called with the bytes sent so far and their number.

        Raises:
            ValueError: the name of the file ends otherwise.
            InvalidRequest: the rows cannot be read, with every violation found.
            OSError: the file cannot be read.
            ImportError: Arrow or a DataFrame, and pyarrow is not installed.
        """
        if isinstance(drop, str):
            raise TypeError(f"drop must be a list of names, not the text {drop!r}")
        layout = catalog_pb.TableLayout(
            label_column=label_column,
            drop_columns=drop,
            delimiter=dialect.delimiter,
            decimal="" if dialect.decimal == "." else dialect.decimal,
            has_header=dialect.header,
        )
        format, opened = sendable(table)
        header = catalog_pb.RegisterDatasetHeader(name=name, format=_FORMATS[format], layout=layout)
        messages = _upload(catalog_pb.RegisterDatasetRequest, header, opened, progress)
        return Unary(self._catalog.RegisterDataset, messages, VERB_TIMEOUT_S, is_upload=True)

    def delete_model(
        self, name: str, *, version: int | None = None, validate_only: bool = False
    ) -> Unary[int]:
        """Delete a model, or one version of it; returns the bytes that nothing else uses.

        With `validate_only`, only check that. What it takes is freed within about an hour. Raises
        ModelNotFound, and InUse while a deployment or a run that has not ended uses it.
        """
        if version is None:
            method: Any = self._catalog.DeleteModel
            request: Any = catalog_pb.DeleteModelRequest(name=name, validate_only=validate_only)
        else:
            method = self._catalog.DeleteModelVersion
            request = catalog_pb.DeleteModelVersionRequest(
                name=name, version=version, validate_only=validate_only
            )
        return Unary(method, request, read=lambda answer: int(answer.freed_bytes))

    def delete_dataset(self, name: str, *, validate_only: bool = False) -> Unary[int]:
        """Delete a dataset; returns the bytes that nothing else uses. The results of runs stay.

        With `validate_only`, only check that. Raises DatasetNotFound, and InUse while a run that
        has not ended uses it.
        """
        request = catalog_pb.DeleteDatasetRequest(name=name, validate_only=validate_only)
        method = self._catalog.DeleteDataset
        return Unary(method, request, read=lambda answer: int(answer.freed_bytes))

    def is_serving(self, service: str = "") -> Unary[bool]:
        """Return whether the controller, or one of its services, reports SERVING.

        Raises Unreachable or DeadlineExceeded when there is no answer.
        """
        return Unary(self._check, wire.health_request(service), read=wire.is_serving)


def _upload(
    message: Callable[..., T],
    header: Any,
    opened: Callable[[], BinaryIO],
    progress: Progress | None,
) -> Iterator[T]:
    """The messages of an upload. The first one reads the whole file for its digest."""
    with opened() as content:
        header.sha256 = hashlib.file_digest(cast(Any, content), "sha256").hexdigest()
        header.size_bytes = content.tell()
        yield message(header=header)
        content.seek(0)
        while chunk := content.read(_CHUNK_BYTES):
            yield message(chunk=chunk)
            if progress is not None:
                progress(content.tell(), header.size_bytes)
