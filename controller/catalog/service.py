"""CatalogService: messages to artifacts, files and names, and back; and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from controller import names
from controller.catalog.catalog import Catalog
from controller.catalog.datasets import Format
from controller.catalog.registered import RegisteredDataset, RegisteredModel, Said
from trillium.controller.v1 import catalog_service_pb2 as pb
from trillium.errors import InvalidRequest, Violation
from trillium.rpc import uploads
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, stream_unary, unary_unary

CATALOG_SERVICE = "trillium.controller.v1.CatalogService"

MIB = 1024 * 1024
PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
NOTHING: Mapping[str, str] = {}
LONGEST_TEXT = 200
"""Characters that a class label and the name of an output may have."""
_PAGE_BYTES = 2 * MIB
"""A page ends early when it gets larger: most callers take 4 MiB."""

M = TypeVar("M", bound=Message)

_FORMATS = {
    pb.DATASET_FORMAT_UNSPECIFIED: None,
    pb.DATASET_FORMAT_CSV: Format.CSV,
    pb.DATASET_FORMAT_NPY: Format.NPY,
    pb.DATASET_FORMAT_PARQUET: Format.PARQUET,
}


class CatalogServicer:
    """Lists and registers models and datasets."""

    def __init__(
        self,
        catalog: Catalog,
        max_model_bytes: int = 1024 * MIB,
        max_dataset_bytes: int = 256 * MIB,
        refused: Mapping[str, str] = NOTHING,
    ) -> None:
        """`refused` are the files that were not registered at the start, with the reasons."""
        self._catalog = catalog
        self._refused = refused
        self._max_model_bytes = max_model_bytes
        self._max_dataset_bytes = max_dataset_bytes
        self._room = uploads.Room(max(max_model_bytes, max_dataset_bytes))

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return Service(
            CATALOG_SERVICE,
            (
                unary_unary("ListModels", pb.ListModelsRequest, self._list_models),
                unary_unary("ListRefusedModels", pb.ListRefusedModelsRequest, self._list_refused),
                stream_unary("RegisterModel", pb.RegisterModelRequest, self._register_model),
                unary_unary("ListDatasets", pb.ListDatasetsRequest, self._list_datasets),
                stream_unary("RegisterDataset", pb.RegisterDatasetRequest, self._register_dataset),
            ),
        )

    async def _list_models(
        self, request: pb.ListModelsRequest, call: Call
    ) -> pb.ListModelsResponse:
        after, size = _page(request)
        found = await self._catalog.models(after=after, limit=size)
        models = _fitting([model_message(each) for each in found])
        last = models[-1].name if models else ""
        more = last and await self._catalog.models(after=last, limit=1)
        token = names.page_token(last) if more else ""
        return pb.ListModelsResponse(models=models, next_page_token=token)

    async def _list_refused(
        self, request: pb.ListRefusedModelsRequest, call: Call
    ) -> pb.ListRefusedModelsResponse:
        refused = sorted(self._refused.items())
        models = [pb.RefusedModel(file=file, detail=why) for file, why in refused]
        return pb.ListRefusedModelsResponse(models=models)

    async def _list_datasets(
        self, request: pb.ListDatasetsRequest, call: Call
    ) -> pb.ListDatasetsResponse:
        after, size = _page(request)
        found = await self._catalog.datasets(after=after, limit=size)
        datasets = _fitting([dataset_message(each) for each in found])
        last = datasets[-1].name if datasets else ""
        more = last and await self._catalog.datasets(after=last, limit=1)
        token = names.page_token(last) if more else ""
        return pb.ListDatasetsResponse(datasets=datasets, next_page_token=token)

    async def _register_model(
        self, parts: AsyncIterator[pb.RegisterModelRequest], call: Call
    ) -> pb.RegisterModelResponse:
        header, first_chunk = await uploads.opening(parts)
        _check(_wrong_model_fields(header, self._max_model_bytes))
        said = Said(
            class_label=header.class_label,
            positive_column=header.positive_column if header.HasField("positive_column") else None,
            output_name=header.output_name,
            ensemble=header.ensemble,
            class_labels=tuple(header.ensemble_class_labels),
            feature_names=tuple(header.feature_names),
            sample=tuple(header.sample),
        )
        async with self._room.taken(header.size_bytes):
            content, digest = await uploads.assembled(first_chunk or b"", parts, header.size_bytes)
            uploads.check_digest(f"the artifact of {header.name}", digest, header.sha256)
            model, version = await self._catalog.register_model(header.name, content, said)
        return pb.RegisterModelResponse(model=model_message(model), version=version)

    async def _register_dataset(
        self, parts: AsyncIterator[pb.RegisterDatasetRequest], call: Call
    ) -> pb.RegisterDatasetResponse:
        header, first_chunk = await uploads.opening(parts)
        wrong = uploads.wrong_fields(header, self._max_dataset_bytes)
        if header.format not in _FORMATS:
            wrong.append(Violation("header.format", f"is {header.format}; no such format"))
        _check(wrong)
        format = _FORMATS[header.format]
        async with self._room.taken(header.size_bytes):
            content, digest = await uploads.assembled(first_chunk or b"", parts, header.size_bytes)
            uploads.check_digest(f"the file of {header.name}", digest, header.sha256)
            dataset, version = await self._catalog.register_dataset(header.name, content, format)
        return pb.RegisterDatasetResponse(dataset=dataset_message(dataset), version=version)


def model_message(model: RegisteredModel) -> pb.Model:
    """A model as its message."""
    message = pb.Model(name=model.name, ensemble=model.ensemble, class_label=model.class_label)
    for version in model.versions:
        each = message.versions.add(
            version=version.version,
            digest=version.digest,
            size_bytes=version.size_bytes,
            feature_count=version.feature_count,
            feature_names=version.feature_names,
        )
        each.create_time.FromDatetime(version.created)
    return message


def dataset_message(dataset: RegisteredDataset) -> pb.Dataset:
    """A dataset as its message."""
    message = pb.Dataset(name=dataset.name)
    for version in dataset.versions:
        each = message.versions.add(
            version=version.version,
            digest=version.digest,
            row_count=version.row_count,
            feature_names=version.feature_names,
            labelled=version.labelled,
        )
        each.create_time.FromDatetime(version.created)
    return message


def _page(request: pb.ListModelsRequest | pb.ListDatasetsRequest) -> tuple[str, int]:
    """The name after which a page begins, and its size; raises InvalidRequest."""
    after = names.after_of(request.page_token)
    if after and not uploads.is_name(after):
        raise InvalidRequest.of("page_token", "is none of this list; take it from the last answer")
    return after, names.page_size(request.page_size, PAGE_SIZE, MAX_PAGE_SIZE)


def _fitting(messages: Sequence[M]) -> Sequence[M]:
    """As many of the first messages as fit into an answer; at least one, if there are any."""
    size = 0
    for count, message in enumerate(messages):
        size += message.ByteSize()
        if size > _PAGE_BYTES and count:
            return messages[:count]
    return messages


def _wrong_model_fields(header: pb.RegisterModelHeader, max_bytes: int) -> list[Violation]:
    wrong = uploads.wrong_fields(header, max_bytes)
    if header.HasField("positive_column") and header.positive_column > 1:
        text = f"is {header.positive_column}; 0 or 1 is wanted"
        wrong.append(Violation("header.positive_column", text))
    for field in ("class_label", "output_name", "ensemble"):
        text = getattr(header, field)
        if len(text) > LONGEST_TEXT:
            problem = f"has {len(text)} characters; at most {LONGEST_TEXT} allowed"
            wrong.append(Violation(f"header.{field}", problem))
    return wrong


def _check(wrong: Sequence[Violation]) -> None:
    if wrong:
        raise InvalidRequest(wrong)
