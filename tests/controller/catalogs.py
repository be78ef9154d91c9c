"""A catalog on a store of its own, and callers of its service with the generated stubs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpc import aio

from controller.catalog.catalog import Catalog, ModelTrial
from controller.catalog.service import CatalogServicer
from controller.deleting import Deleting
from controller.deployments.repository import Deployments
from controller.failpoints import Failpoints
from controller.outages import reporting_outages
from controller.runs.repository import Runs
from controller.store.sqlite import SqliteStore
from trillium.access.door import Door
from trillium.clock import SystemClock
from trillium.controller.v1 import catalog_service_pb2 as pb
from trillium.controller.v1 import catalog_service_pb2_grpc
from trillium.errors import TrilliumError
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription
from trillium.rpc.front import Front
from trillium.rpc.methods import Limits


@dataclass(slots=True)
class FakeTrial:
    """Says the same of every model, or what is said of it, and remembers which it was asked."""

    description: ModelDescription = field(default_factory=lambda: ModelDescription(4, "setosa"))
    error: TrilliumError | None = None
    asked: list[str] = field(default_factory=list)

    async def describe(
        self, name: str, artifact: bytes, digest: str, said: DeclaredFacts
    ) -> ModelDescription:
        assert digest == digest_of(artifact)
        self.asked.append(name)
        if self.error is not None:
            raise self.error
        known = self.description
        return ModelDescription(
            feature_count=known.feature_count,
            class_label=said.class_label or known.class_label,
            feature_names=known.feature_names,
            ensemble=known.ensemble,
            class_labels=known.class_labels,
        )


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    """A store in the file `path`."""
    store = SqliteStore(path)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@dataclass(frozen=True, slots=True)
class Served:
    """A CatalogService that is up."""

    catalog: Catalog
    stub: catalog_service_pb2_grpc.CatalogServiceAsyncStub


@asynccontextmanager
async def serving(store: SqliteStore, trial: ModelTrial, **limits: Any) -> AsyncIterator[Served]:
    """The service on a free port."""
    catalog = Catalog(store, SystemClock(), trial)
    deployments = Deployments(store, SystemClock())
    runs = Runs(store, deployments, SystemClock(), Failpoints({}))
    deletions = Deleting(catalog, deployments, runs)
    service = reporting_outages(CatalogServicer(catalog, deletions=deletions, **limits).service())
    front = Front((service,), ("127.0.0.1:0",), Limits(), door=Door())
    await front.start()
    try:
        async with aio.insecure_channel(front.addresses[0]) as channel:
            yield Served(catalog, catalog_service_pb2_grpc.CatalogServiceStub(channel))
    finally:
        await front.stop(1.0)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def model_upload(
    artifact: bytes, chunk_bytes: int = 65536, **header: Any
) -> Iterator[pb.RegisterModelRequest]:
    """The messages that register `artifact`; `header` overrides what is sound."""
    facts = {
        "name": "setosa",
        "sha256": digest_of(artifact),
        "size_bytes": len(artifact),
        "class_label": "setosa",
        "positive_column": 1,
        **header,
    }
    yield pb.RegisterModelRequest(header=pb.RegisterModelHeader(**facts))
    for start in range(0, len(artifact), chunk_bytes):
        yield pb.RegisterModelRequest(chunk=artifact[start : start + chunk_bytes])


def dataset_upload(
    content: bytes, chunk_bytes: int = 65536, **header: Any
) -> Iterator[pb.RegisterDatasetRequest]:
    """The messages that register `content`; `header` overrides what is sound."""
    facts = {
        "name": "flowers",
        "sha256": digest_of(content),
        "size_bytes": len(content),
        **header,
    }
    yield pb.RegisterDatasetRequest(header=pb.RegisterDatasetHeader(**facts))
    for start in range(0, len(content), chunk_bytes):
        yield pb.RegisterDatasetRequest(chunk=content[start : start + chunk_bytes])
