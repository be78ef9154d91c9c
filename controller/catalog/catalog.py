"""The catalog: models that can be deployed and datasets that can be scored, by name and version.

The bytes are written first and the record that names them afterwards, so that what a record names
is always there. Versions are only ever added.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from trillium.clock import Clock
from trillium.errors import DatasetNotFound, InvalidRequest, ModelNotFound, Superseded
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription
from trillium.rpc.uploads import wrong_name

from ..store.codec import to_milliseconds
from ..store.port import Kind, Store
from .datasets import Dataset, Format, Layout, TableLimits, parse
from .registered import (
    DatasetVersion,
    ModelVersion,
    RegisteredDataset,
    RegisteredModel,
    dataset_body,
    dataset_of,
    model_body,
    model_of,
)
from .shelf import Shelf

log = logging.getLogger(__name__)

V = TypeVar("V", ModelVersion, DatasetVersion)
_TRIES = 100
"""A removal is tried this number of times; each loss means that somebody else got on."""
_NAMED = 20
"""Number of versions that an error lists for one that does not exist."""


class ModelTrial(Protocol):
    """Who opens and tries a model before it is registered."""

    async def describe(
        self, name: str, artifact: bytes, digest: str, declared: DeclaredFacts
    ) -> ModelDescription:
        """A predictor's description of the model. Raises what a predictor refuses it with:
        ModelRejected, InvalidRequest."""
        ...


_DEFAULT_LIMITS = TableLimits()
_DEFAULT_LAYOUT = Layout()


class Catalog:
    """Models and datasets of one store. Every method may raise StoreUnavailable or StoreError;
    registering may safely be repeated then."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        trial: ModelTrial,
        *,
        limits: TableLimits = _DEFAULT_LIMITS,
    ) -> None:
        """`limits` are for datasets; the store stays its owner's to open and close."""
        self._store = store
        self._clock = clock
        self._trial = trial
        self._limits = limits
        self.model_records = Shelf(store, Kind.MODEL, model_of, model_body)
        self.dataset_records = Shelf(store, Kind.DATASET, dataset_of, dataset_body)

    async def models(self, *, after: str = "", limit: int = 1000) -> Sequence[RegisteredModel]:
        """At most `limit` (1 to 1000) models whose names come after `after`, in their order."""
        return [stored.value for stored in await self.model_records.page(after=after, limit=limit)]

    async def every_model(self) -> AsyncIterator[RegisteredModel]:
        """All models in the order of their names, a page at a time."""
        async for stored in self.model_records.all():
            yield stored.value

    async def model(self, name: str) -> RegisteredModel:
        """The model of that name. Raises ModelNotFound, which lists the models."""
        model = await self.model_records.get(name)
        if model is None:
            there = await self.model_records.names()
            raise ModelNotFound(f"no model {name[:140]!r}; there: {there}")
        return model.value

    async def model_version(
        self, name: str, version: int = 0
    ) -> tuple[RegisteredModel, ModelVersion]:
        """A version of a model, 0 meaning the newest. Raises ModelNotFound, which lists what
        there is."""
        model = await self.model(name)
        found = _version_of(model.versions, version)
        if found is None:
            there = _numbers(model.versions)
            raise ModelNotFound(f"model {name!r} has no version {version}; there: {there}")
        return model, found

    async def artifact(self, digest: str) -> bytes:
        """The bytes of a version's artifact; raises ModelNotFound."""
        artifact = await self._store.get_blob(digest)
        if artifact is None:
            raise ModelNotFound(f"the store has no artifact with the SHA-256 {digest}")
        return artifact

    async def register_model(
        self, name: str, artifact: bytes, declared: DeclaredFacts
    ) -> tuple[RegisteredModel, int]:
        """Make an artifact the next version of a model; answers the model and that version.

        An artifact that is the newest version already, with the same declared facts, stays that
        version. Raises InvalidRequest for another class than that of earlier versions, and what
        the trial raises; nothing is registered then.
        """
        _check_name(name)
        digest = await _sha256(artifact)
        before = await self.model_records.get(name)
        if before is not None:
            newest = before.value.versions[-1]
            if (newest.digest, newest.declared) == (digest, declared):
                return before.value, newest.version
            _check_class(before.value, declared.class_label)
        described = await self._trial.describe(name, artifact, digest, declared)
        fresh = self._fresh_version(artifact, digest, described, declared)
        await self._store.put_blob(digest, artifact)
        after = await self.model_records.change(name, _with_model(name, fresh, described, declared))
        return after.value, after.value.versions[-1].version

    async def datasets(self, *, after: str = "", limit: int = 1000) -> Sequence[RegisteredDataset]:
        """At most `limit` (1 to 1000) datasets whose names come after `after`, in their order."""
        return [
            stored.value for stored in await self.dataset_records.page(after=after, limit=limit)
        ]

    async def dataset(self, name: str) -> RegisteredDataset:
        """The dataset of that name. Raises DatasetNotFound, which lists the datasets."""
        dataset = await self.dataset_records.get(name)
        if dataset is None:
            there = await self.dataset_records.names()
            raise DatasetNotFound(f"no dataset {name[:140]!r}; there: {there}")
        return dataset.value

    async def dataset_version(
        self, name: str, version: int = 0
    ) -> tuple[RegisteredDataset, DatasetVersion]:
        """A version of a dataset, 0 meaning the newest. Raises DatasetNotFound, which lists what
        there is."""
        dataset = await self.dataset(name)
        found = _version_of(dataset.versions, version)
        if found is None:
            there = _numbers(dataset.versions)
            raise DatasetNotFound(f"dataset {name!r} has no version {version}; there: {there}")
        return dataset, found

    async def rows(self, version: DatasetVersion) -> Dataset:
        """What a version's file holds; raises DatasetNotFound."""
        content = await self._store.get_blob(version.digest)
        if content is None:
            raise DatasetNotFound(f"the store has no file with the SHA-256 {version.digest}")
        return await asyncio.to_thread(parse, content, version.format, self._limits, version.layout)

    async def register_dataset(
        self, name: str, content: bytes, format: Format | None, layout: Layout = _DEFAULT_LAYOUT
    ) -> tuple[RegisteredDataset, int]:
        """Make a file the next version of a dataset; answers the dataset and that version.

        None derives the format from the content. A file that is the newest version already, read in
        the same way, stays that version. Raises InvalidRequest with every violation; nothing is
        registered then.
        """
        _check_name(name)
        digest = await _sha256(content)
        before = await self.dataset_records.get(name)
        if before is not None:
            newest = before.value.versions[-1]
            same = newest.digest == digest and newest.layout == layout
            if same and format in (None, newest.format):
                return before.value, newest.version
        dataset = await asyncio.to_thread(parse, content, format, self._limits, layout)
        if dataset.notes:
            facts = {"dataset": name, "notes": list(dataset.notes)}
            log.info("dataset read", extra=facts)
        fresh = DatasetVersion(
            version=1,
            digest=digest,
            size_bytes=len(content),
            row_count=len(dataset.rows),
            feature_names=dataset.feature_names,
            labelled=dataset.labels is not None,
            created=to_milliseconds(self._clock.now()),
            format=dataset.format,
            layout=layout,
            has_names=dataset.has_names,
            notes=dataset.notes,
            first_missing=dataset.first_missing,
        )
        await self._store.put_blob(digest, content)
        after = await self.dataset_records.change(name, _with_dataset(name, fresh))
        return after.value, after.value.versions[-1].version

    async def remove_model(self, name: str, version: int = 0) -> None:
        """Remove a version of a model, 0 meaning all of them with the model; its artifact is left
        to the collector of blobs. The only version is removed with the model. Raises ModelNotFound,
        Superseded."""
        for _ in range(_TRIES):
            stored = await self.model_records.get(name)
            if stored is None:
                raise ModelNotFound(f"no model {name[:140]!r}")
            left = tuple(each for each in stored.value.versions if version not in (0, each.version))
            if left == stored.value.versions:
                raise ModelNotFound(f"model {name!r} has no version {version}")
            if not left:
                if await self.model_records.delete(name, stored.rev):
                    return
                continue
            last = max(stored.value.last_version, stored.value.versions[-1].version)
            kept = replace(stored.value, versions=left, last_version=last)
            if await self.model_records.put(name, kept, stored.rev) is not None:
                return
        raise Superseded(f"model {name!r} changes too often; try again")

    async def remove_dataset(self, name: str) -> None:
        """Remove a dataset; its files are left to the collector of blobs. Raises
        DatasetNotFound."""
        for _ in range(_TRIES):
            stored = await self.dataset_records.get(name)
            if stored is None:
                raise DatasetNotFound(f"no dataset {name[:140]!r}")
            if await self.dataset_records.delete(name, stored.rev):
                return
        raise Superseded(f"dataset {name!r} changes too often; try again")

    async def blobs_in_use(self) -> Counter[str]:
        """The digest of every artifact and file, with the number of versions that name it."""
        used: Counter[str] = Counter()
        async for model in self.model_records.all():
            used.update(each.digest for each in model.value.versions)
        async for dataset in self.dataset_records.all():
            used.update(each.digest for each in dataset.value.versions)
        return used

    def _fresh_version(
        self, artifact: bytes, digest: str, described: ModelDescription, declared: DeclaredFacts
    ) -> ModelVersion:
        names = declared.feature_names or described.feature_names
        if len(names) not in (0, described.feature_count):
            text = f"are {len(names)}; the model takes {described.feature_count}"
            raise InvalidRequest.of("feature_names", text)
        return ModelVersion(
            version=1,
            digest=digest,
            size_bytes=len(artifact),
            feature_count=described.feature_count,
            feature_names=names,
            class_label=described.class_label,
            created=to_milliseconds(self._clock.now()),
            declared=declared,
            takes_missing=described.takes_missing,
            inferred=described.inferred,
        )


def _version_of(versions: Sequence[V], number: int) -> V | None:
    """The version of that number, 0 meaning the newest."""
    if not number:
        return versions[-1]
    return next((each for each in versions if each.version == number), None)


def _numbers(versions: Sequence[ModelVersion | DatasetVersion]) -> str:
    """Which versions there are, for a person."""
    first, last = versions[0].version, versions[-1].version
    if last - first + 1 == len(versions):
        return f"{first} to {last}"
    return ", ".join(str(each.version) for each in versions[-_NAMED:])


def _with_model(
    name: str, fresh: ModelVersion, described: ModelDescription, declared: DeclaredFacts
) -> Callable[[RegisteredModel | None], RegisteredModel]:
    """Adds a version to a model, unless it is the newest one."""
    ensemble = declared.ensemble or described.ensemble
    class_labels = declared.class_labels or described.class_labels

    def change(before: RegisteredModel | None) -> RegisteredModel:
        if before is None:
            return RegisteredModel(name, ensemble, fresh.class_label, class_labels, (fresh,))
        _check_class(before, fresh.class_label)
        newest = before.versions[-1]
        if (newest.digest, newest.declared) == (fresh.digest, fresh.declared):
            return before
        added = replace(fresh, version=max(newest.version, before.last_version) + 1)
        return replace(
            before,
            ensemble=ensemble or before.ensemble,
            class_labels=class_labels or before.class_labels,
            versions=(*before.versions, added),
        )

    return change


def _with_dataset(
    name: str, fresh: DatasetVersion
) -> Callable[[RegisteredDataset | None], RegisteredDataset]:
    """Adds a version to a dataset, unless it is the newest one."""

    def change(before: RegisteredDataset | None) -> RegisteredDataset:
        if before is None:
            return RegisteredDataset(name, (fresh,))
        newest = before.versions[-1]
        if replace(fresh, version=newest.version, created=newest.created) == newest:
            return before
        added = replace(fresh, version=newest.version + 1)
        return replace(before, versions=(*before.versions, added))

    return change


def _check_name(name: str) -> None:
    wrong = wrong_name(name)
    if wrong:
        raise InvalidRequest(wrong)


def _check_class(before: RegisteredModel, class_label: str) -> None:
    """Raises InvalidRequest if that is another class; "" is not declared yet."""
    if class_label not in ("", before.class_label):
        text = f"is {class_label[:140]!r}, but {before.name!r} recognises {before.class_label!r}"
        raise InvalidRequest.of("header.class_label", f"{text}; use another name for it")


async def _sha256(content: bytes) -> str:
    return (await asyncio.to_thread(hashlib.sha256, content)).hexdigest()
