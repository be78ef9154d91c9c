"""CatalogService: messages to artifacts, files and names, and back; and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from trillium.controller.v1 import catalog_service_pb2 as pb
from trillium.errors import InvalidRequest, Violation
from trillium.model.declared import DeclaredFacts
from trillium.model.messages import facts_in
from trillium.rpc import uploads
from trillium.rpc.call import Call
from trillium.rpc.methods import Service, service_of
from trillium.tables.dialect import Dialect
from trillium.tables.gathering import LONGEST_TEXT, Choice
from trillium.violations import Violations

from .. import names
from .catalog import Catalog
from .datasets import Format, Layout
from .registered import RegisteredDataset, RegisteredModel

CATALOG_SERVICE = "trillium.controller.v1.CatalogService"

MIB = 1024 * 1024
PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
NOTHING: Mapping[str, str] = {}
_MOST_DROPPED = 1000
"""Columns that one dataset may name as no features."""
_PAGE_BYTES = 2 * MIB
"""A page ends early when it gets larger: most callers take 4 MiB."""

M = TypeVar("M", bound=Message)

_FORMATS = {
    pb.DATASET_FORMAT_UNSPECIFIED: None,
    pb.DATASET_FORMAT_CSV: Format.CSV,
    pb.DATASET_FORMAT_NPY: Format.NPY,
    pb.DATASET_FORMAT_PARQUET: Format.PARQUET,
}


class Deletions(Protocol):
    """Deletes what nothing uses; each answers the bytes that this frees."""

    async def model(self, name: str, version: int = 0, *, validate_only: bool) -> int:
        """A version of a model, 0 meaning the model. Raises ModelNotFound, InUse."""
        ...

    async def dataset(self, name: str, *, validate_only: bool) -> int:
        """A dataset. Raises DatasetNotFound, InUse."""
        ...


class CatalogServicer:
    """Lists and registers models and datasets."""

    def __init__(
        self,
        catalog: Catalog,
        max_model_bytes: int = 1024 * MIB,
        max_dataset_bytes: int = 256 * MIB,
        refused: Mapping[str, str] = NOTHING,
        *,
        deletions: Deletions,
    ) -> None:
        """`refused` are the files that were not registered at the start, with the reasons."""
        self._catalog = catalog
        self._deletions = deletions
        self._refused = refused
        self._max_model_bytes = max_model_bytes
        self._max_dataset_bytes = max_dataset_bytes
        self._room = uploads.Room(max(max_model_bytes, max_dataset_bytes))

    def service(self) -> Service:
        """The gRPC service that answers for this."""
        return service_of(
            pb.DESCRIPTOR.services_by_name["CatalogService"],
            {
                "ListModels": self._list_models,
                "ListRefusedModels": self._list_refused,
                "RegisterModel": self._register_model,
                "ListDatasets": self._list_datasets,
                "RegisterDataset": self._register_dataset,
                "DeleteModel": self._delete_model,
                "DeleteModelVersion": self._delete_model_version,
                "DeleteDataset": self._delete_dataset,
            },
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
        return pb.ListModelsResponse(
            models=models,
            next_page_token=token,
            unreadable=names.unreadable(self._catalog.model_records, "", request.page_token),
        )

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
        return pb.ListDatasetsResponse(
            datasets=datasets,
            next_page_token=token,
            unreadable=names.unreadable(self._catalog.dataset_records, "", request.page_token),
        )

    async def _register_model(
        self, parts: AsyncIterator[pb.RegisterModelRequest], call: Call
    ) -> pb.RegisterModelResponse:
        header, first_chunk = await uploads.opening(parts)
        declared = _declared(header, self._max_model_bytes)
        async with self._room.taken(header.size_bytes):
            content, digest = await uploads.assembled(first_chunk or b"", parts, header.size_bytes)
            uploads.check_digest(f"the artifact of {header.name}", digest, header.sha256)
            model, version = await self._catalog.register_model(header.name, content, declared)
        return pb.RegisterModelResponse(model=model_message(model), version=version)

    async def _register_dataset(
        self, parts: AsyncIterator[pb.RegisterDatasetRequest], call: Call
    ) -> pb.RegisterDatasetResponse:
        header, first_chunk = await uploads.opening(parts)
        wrong = uploads.wrong_fields(header, self._max_dataset_bytes)
        if header.format not in _FORMATS:
            wrong.append(Violation("header.format", f"is {header.format}; no such format"))
        layout = _layout(header.layout, wrong)
        _check(wrong)
        format = _FORMATS[header.format]
        async with self._room.taken(header.size_bytes):
            content, digest = await uploads.assembled(first_chunk or b"", parts, header.size_bytes)
            uploads.check_digest(f"the file of {header.name}", digest, header.sha256)
            dataset, version = await self._catalog.register_dataset(
                header.name, content, format, layout
            )
        return pb.RegisterDatasetResponse(dataset=dataset_message(dataset), version=version)

    async def _delete_model(
        self, request: pb.DeleteModelRequest, call: Call
    ) -> pb.DeleteModelResponse:
        freed = await self._deletions.model(request.name, validate_only=request.validate_only)
        return pb.DeleteModelResponse(freed_bytes=freed)

    async def _delete_model_version(
        self, request: pb.DeleteModelVersionRequest, call: Call
    ) -> pb.DeleteModelVersionResponse:
        if not request.version:
            text = "is missing; to delete all versions, delete the model"
            raise InvalidRequest.of("version", text)
        freed = await self._deletions.model(
            request.name, request.version, validate_only=request.validate_only
        )
        return pb.DeleteModelVersionResponse(freed_bytes=freed)

    async def _delete_dataset(
        self, request: pb.DeleteDatasetRequest, call: Call
    ) -> pb.DeleteDatasetResponse:
        freed = await self._deletions.dataset(request.name, validate_only=request.validate_only)
        return pb.DeleteDatasetResponse(freed_bytes=freed)


def model_message(model: RegisteredModel) -> pb.Model:
    """A model as its message."""
    message = pb.Model(
        name=model.name,
        ensemble=model.ensemble,
        class_label=model.class_label,
        class_labels=model.class_labels,
    )
    for version in model.versions:
        each = message.versions.add(
            version=version.version,
            digest=version.digest,
            size_bytes=version.size_bytes,
            feature_count=version.feature_count,
            feature_names=version.feature_names,
            takes_missing=version.takes_missing,
            inferred=version.inferred,
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
            layout=_layout_message(version.layout),
            notes=version.notes,
            first_missing=version.first_missing,
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


def _declared(header: pb.RegisterModelHeader, max_bytes: int) -> DeclaredFacts:
    """The facts that a checked header declares; raises InvalidRequest."""
    wrong = Violations()
    wrong.extend(uploads.wrong_fields(header, max_bytes))
    declared = facts_in(header, wrong)
    for field in ("class_label", "output_name", "ensemble"):
        text = getattr(header, field)
        if len(text) > LONGEST_TEXT:
            problem = f"has {len(text)} characters; at most {LONGEST_TEXT} allowed"
            wrong.add(f"header.{field}", problem)
    wrong.raise_any()
    return declared


def _layout(message: pb.TableLayout, wrong: list[Violation]) -> Layout:
    """The layout that a header has; what is wrong with it is added to `wrong`."""
    for field in ("label_column", "drop_columns"):
        value = getattr(message, field)
        longest = max(map(len, [value] if isinstance(value, str) else value), default=0)
        if longest > LONGEST_TEXT:
            problem = f"has {longest} characters; at most {LONGEST_TEXT} allowed"
            wrong.append(Violation(f"header.layout.{field}", problem))
    if len(message.drop_columns) > _MOST_DROPPED:
        problem = f"has {len(message.drop_columns)} names; at most {_MOST_DROPPED} allowed"
        wrong.append(Violation("header.layout.drop_columns", problem))
    header = message.has_header if message.HasField("has_header") else None
    try:
        dialect = Dialect(message.delimiter[:9], message.decimal[:9] or ".", header)
    except ValueError as error:
        wrong.append(Violation("header.layout", str(error)))
        dialect = Dialect()
    return Layout(Choice(message.label_column, tuple(message.drop_columns)), dialect)


def _layout_message(layout: Layout) -> pb.TableLayout:
    dialect = layout.dialect
    return pb.TableLayout(
        label_column=layout.choice.label,
        drop_columns=layout.choice.drop,
        delimiter=dialect.delimiter,
        decimal="" if dialect.decimal == "." else dialect.decimal,
        has_header=dialect.header,
    )


def _check(wrong: Sequence[Violation]) -> None:
    if wrong:
        raise InvalidRequest(wrong)
