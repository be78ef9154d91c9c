"""What CatalogService answers over a real socket, to callers that use the generated stubs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from grpc import aio
from pyarrow import parquet

from controller.catalog.trial import Trial
from controller.store.sqlite import SqliteStore
from tests import artifacts
from tests.controller.catalogs import (
    FakeTrial,
    Served,
    dataset_upload,
    digest_of,
    model_upload,
    opened,
    serving,
)
from tests.rpc.errors import Failure, failed, failure_of, refused, was_still_writing
from tests.waiting import eventually
from trillium.controller.v1 import catalog_service_pb2 as pb
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription
from trillium.rpc import uploads
from trillium.rpc.uploads import MAX_CHUNK_BYTES

QUICK = artifacts.renamed_opset(13)
SAID = DeclaredFacts(class_label="setosa")
CSV = b"a,b,label\n1,2,x\n3,4,y\n"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with opened(tmp_path / "store.db") as store:
        yield store


@pytest.fixture
async def served(store: SqliteStore) -> AsyncIterator[Served]:
    async with serving(store, FakeTrial()) as served:
        yield served


async def models(served: Served, **request: Any) -> pb.ListModelsResponse:
    answer: pb.ListModelsResponse = await served.stub.ListModels(
        pb.ListModelsRequest(**request), timeout=60
    )
    return answer


async def datasets(served: Served, **request: Any) -> pb.ListDatasetsResponse:
    answer: pb.ListDatasetsResponse = await served.stub.ListDatasets(
        pb.ListDatasetsRequest(**request), timeout=60
    )
    return answer


async def test_model_is_tried_by_a_predictor_and_registered(store: SqliteStore) -> None:
    artifact = artifacts.with_trillium_metadata(
        QUICK, ensemble="iris", class_label="setosa", feature_names='["a", "b", "c", "d"]'
    )
    async with serving(store, Trial()) as served:
        upload = model_upload(artifact, 100, name="iris-setosa", class_label="")
        answer = await served.stub.RegisterModel(upload, timeout=60)
        version = answer.model.versions[0]
        age = datetime.now(UTC) - version.create_time.ToDatetime(UTC)
        assert abs(age.total_seconds()) < 60
        version.ClearField("create_time")
        wanted = pb.ModelVersion(
            version=1,
            digest=digest_of(artifact),
            size_bytes=len(artifact),
            feature_count=4,
            feature_names=["a", "b", "c", "d"],
        )
        model = pb.Model(
            name="iris-setosa", ensemble="iris", class_label="setosa", versions=[wanted]
        )
        assert answer == pb.RegisterModelResponse(model=model, version=1)
        assert [each.name for each in (await models(served)).models] == ["iris-setosa"]
        again = model_upload(artifact, name="iris-setosa", class_label="")
        assert (await served.stub.RegisterModel(again, timeout=60)).version == 1


async def test_what_a_predictor_refuses_is_refused_and_not_kept(store: SqliteStore) -> None:
    async with serving(store, Trial()) as served:
        artifact = artifacts.three_classes()
        failure = await refused(
            lambda: served.stub.RegisterModel(model_upload(artifact), timeout=60)
        )
        assert (failure.code, failure.reason) == ("INVALID_ARGUMENT", "MODEL_REJECTED")
        assert "no output can hold a binary classifier" in failure.message
        assert await store.get_blob(digest_of(artifact)) is None
        assert await models(served) == pb.ListModelsResponse()


def changed(messages: Iterable[Any], *extra: Any, skip: int = 0) -> list[Any]:
    return [*list(messages)[skip:], *extra]


Request = pb.RegisterModelRequest
HEADER = next(model_upload(QUICK))

BAD_MODELS: dict[str, tuple[list[Any], str, set[str]]] = {
    "nothing": ([], "INVALID_REQUEST", {"header"}),
    "empty message": ([Request()], "INVALID_REQUEST", {"header"}),
    "chunk first": (changed(model_upload(QUICK), skip=1), "INVALID_REQUEST", {"header"}),
    "no chunk": ([HEADER], "INVALID_REQUEST", {"header.size_bytes"}),
    "two headers": ([HEADER, HEADER], "INVALID_REQUEST", {"header"}),
    "second header late": (changed(model_upload(QUICK), HEADER), "INVALID_REQUEST", {"header"}),
    "part without content": ([HEADER, Request()], "INVALID_REQUEST", {"chunk"}),
    "too short": (changed(model_upload(QUICK, 100))[:-1], "INVALID_REQUEST", {"header.size_bytes"}),
    "too long": (
        changed(model_upload(QUICK), Request(chunk=b"x")),
        "INVALID_REQUEST",
        {"header.size_bytes"},
    ),
    "too large": (
        changed(model_upload(QUICK, size_bytes=100_001)),
        "INVALID_REQUEST",
        {"header.size_bytes"},
    ),
    "large chunk": (
        [HEADER, Request(chunk=bytes(MAX_CHUNK_BYTES + 1))],
        "INVALID_REQUEST",
        {"chunk"},
    ),
    "other content": (changed(model_upload(QUICK, sha256="0" * 64)), "DIGEST_MISMATCH", set()),
    "all wrong at once": (
        changed(
            model_upload(
                QUICK,
                name="../x",
                sha256="XY",
                size_bytes=0,
                positive_column=2,
                class_label="x" * 201,
                output_name="x" * 201,
                ensemble="x" * 201,
            )
        ),
        "INVALID_REQUEST",
        {
            "header.name",
            "header.sha256",
            "header.size_bytes",
            "header.positive_column",
            "header.class_label",
            "header.output_name",
            "header.ensemble",
        },
    ),
}


async def _sent(method: Any, messages: list[Any]) -> Any:
    return await method(iter(messages), timeout=60)


async def test_each_bad_upload_is_told_and_changes_nothing(store: SqliteStore) -> None:
    trial = FakeTrial()
    async with serving(store, trial, max_model_bytes=100_000) as served:
        for name, (messages, reason, fields) in BAD_MODELS.items():
            failure = await refused(partial(_sent, served.stub.RegisterModel, messages))
            assert (failure.reason, set(failure.fields)) == (reason, fields), name
            assert failure.code == "INVALID_ARGUMENT"
        assert await models(served) == pb.ListModelsResponse()
    assert trial.asked == []


async def test_uploads_share_a_limited_room(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "WAIT_S", 1.0)
    limits = {"max_model_bytes": len(QUICK), "max_dataset_bytes": 100}
    async with serving(store, FakeTrial(), **limits) as served:
        begun = [served.stub.RegisterModel(timeout=60) for _ in range(2)]
        header, chunk = model_upload(QUICK)
        for call in begun:
            await call.write(header)
            await call.write(pb.RegisterModelRequest(chunk=chunk.chunk[:-1]))
        third = served.stub.RegisterDataset
        refusals: list[Failure] = []

        async def is_refused() -> bool:
            # It is taken as long as the others' headers are on their way.
            try:
                await third(dataset_upload(CSV), timeout=60)
            except aio.AioRpcError as error:
                refusals.append(failure_of(error))
            return bool(refusals) and not was_still_writing(refusals[-1])

        await eventually(is_refused)
        failure = refusals[-1]
        assert (failure.code, failure.reason) == ("RESOURCE_EXHAUSTED", "OVERLOADED")
        assert failure.retry_s == 5
        begun[0].cancel()
        await begun[1].write(pb.RegisterModelRequest(chunk=chunk.chunk[-1:]))
        await begun[1].done_writing()
        assert (await begun[1]).version == 1
        assert (await third(dataset_upload(CSV), timeout=60)).version == 1


async def test_another_class_is_told_by_its_field(served: Served) -> None:
    await served.stub.RegisterModel(model_upload(b"artifact"), timeout=60)
    upload = list(model_upload(b"other", class_label="virginica"))
    failure = await refused(partial(_sent, served.stub.RegisterModel, upload))
    assert (failure.code, set(failure.fields)) == ("INVALID_ARGUMENT", {"header.class_label"})


def as_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([[1.0, 2.0], [3.0, 4.0]]))
    return file.getvalue()


def as_parquet() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"a": [1.0, 3.0], "b": [2, 4], "label": ["x", "y"]}), file)
    return file.getvalue()


async def test_datasets_of_every_format_are_registered(served: Served) -> None:
    files = (
        (CSV, pb.DATASET_FORMAT_CSV, ["a", "b"]),
        (as_npy(), pb.DATASET_FORMAT_NPY, ["feature_0", "feature_1"]),
        (as_parquet(), pb.DATASET_FORMAT_PARQUET, ["a", "b"]),
    )
    answer = pb.RegisterDatasetResponse()
    for number, (content, format, names) in enumerate(files, start=1):
        for said in (pb.DATASET_FORMAT_UNSPECIFIED, format):
            upload = dataset_upload(content, 10, format=said)
            answer = await served.stub.RegisterDataset(upload, timeout=60)
            assert answer.version == number
        version = answer.dataset.versions[number - 1]
        assert (version.version, version.digest) == (number, digest_of(content))
        assert (version.row_count, list(version.feature_names)) == (2, names)
        assert version.labelled == (format != pb.DATASET_FORMAT_NPY)
        assert version.create_time.seconds > 1_700_000_000
    (listed,) = (await datasets(served)).datasets
    assert listed == answer.dataset
    assert [each.version for each in listed.versions] == [1, 2, 3]


BAD_DATASETS: dict[str, tuple[list[Any], str, set[str]]] = {
    "nothing": ([], "INVALID_REQUEST", {"header"}),
    "all wrong at once": (
        changed(dataset_upload(CSV, name=".", sha256="", size_bytes=0, format=9)),
        "INVALID_REQUEST",
        {"header.name", "header.sha256", "header.size_bytes", "header.format"},
    ),
    "too large": (
        changed(dataset_upload(CSV, size_bytes=100_001)),
        "INVALID_REQUEST",
        {"header.size_bytes"},
    ),
    "too short": (changed(dataset_upload(CSV, 5))[:-1], "INVALID_REQUEST", {"header.size_bytes"}),
    "other content": (changed(dataset_upload(CSV, sha256="0" * 64)), "DIGEST_MISMATCH", set()),
    "other format": (
        changed(dataset_upload(CSV, format=pb.DATASET_FORMAT_NPY)),
        "INVALID_REQUEST",
        {"header.format"},
    ),
    "no rows": (changed(dataset_upload(b"a,b\n")), "INVALID_REQUEST", {"rows"}),
    "bad values": (
        changed(dataset_upload(b"a,label\ninf,x\n1\n2,\n")),
        "INVALID_REQUEST",
        {"rows[0].a", "rows[1]", "rows[2].label"},
    ),
}


async def test_each_bad_dataset_is_told_and_changes_nothing(store: SqliteStore) -> None:
    async with serving(store, FakeTrial(), max_dataset_bytes=100_000) as served:
        for name, (messages, reason, fields) in BAD_DATASETS.items():
            failure = await refused(partial(_sent, served.stub.RegisterDataset, messages))
            assert (failure.reason, set(failure.fields)) == (reason, fields), name
            assert failure.code == "INVALID_ARGUMENT"
        assert await datasets(served) == pb.ListDatasetsResponse()


async def test_twenty_long_violations_reach_the_caller(served: Served) -> None:
    nasty = "ä🌺" * 95
    lines = [f"{nasty},b", *([f"{nasty},{nasty}"] * 100)]
    upload = list(dataset_upload("\n".join(lines).encode()))
    failure = await refused(partial(_sent, served.stub.RegisterDataset, upload))
    assert failure.reason == "INVALID_REQUEST"
    assert len(failure.fields) == 20


async def test_lists_come_in_pages(served: Served) -> None:
    names = sorted(f"d{number}" for number in range(7))
    for name in reversed(names):
        await served.catalog.register_dataset(name, CSV, None)
        await served.catalog.register_model(name, b"artifact", SAID)
    for size in (1, 3, 7, 8, 1000):
        token, found = "", []
        for _ in range(-(-7 // size)):
            page = await datasets(served, page_size=size, page_token=token)
            assert 1 <= len(page.datasets) <= size
            found += [each.name for each in page.datasets]
            listed = await models(served, page_size=size, page_token=token)
            assert [each.name for each in listed.models] == found[-len(page.datasets) :]
            assert listed.next_page_token == page.next_page_token
            token = page.next_page_token
        assert (found, token) == (names, "")
    assert len((await models(served)).models) == 7


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "ä"}, "page_token"),
        ({"page_token": "x"}, "page_token"),
        ({"page_token": "Li4veA=="}, "page_token"),
    ],
)
async def test_bad_page_is_told(served: Served, request_: dict[str, Any], field: str) -> None:
    for call in (
        served.stub.ListModels(pb.ListModelsRequest(**request_), timeout=60),
        served.stub.ListDatasets(pb.ListDatasetsRequest(**request_), timeout=60),
    ):
        failure = await failed(call)
        assert (failure.reason, set(failure.fields)) == ("INVALID_REQUEST", {field})


async def test_pages_of_large_models_stay_below_what_callers_take(store: SqliteStore) -> None:
    names = tuple(f"{number:0200}" for number in range(6000))
    trial = FakeTrial(ModelDescription(len(names), "setosa", names))
    async with serving(store, trial) as served:
        for number in range(5):
            await served.catalog.register_model(f"m{number}", b"artifact", SAID)
        token, found = "", []
        for _ in range(5):
            page = await models(served, page_token=token)
            assert page.ByteSize() < 4 * 2**20
            found += [each.name for each in page.models]
            token = page.next_page_token
        assert (found, token) == (["m0", "m1", "m2", "m3", "m4"], "")


async def test_large_artifact_comes_whole(store: SqliteStore) -> None:
    async with serving(store, FakeTrial()) as served:
        content = hashlib.shake_128(b"seed").digest(9 * 2**20)
        upload = model_upload(content, MAX_CHUNK_BYTES)
        answer = await served.stub.RegisterModel(upload, timeout=60)
        (version,) = answer.model.versions
        assert version.size_bytes == len(content)
        assert await served.catalog.artifact(version.digest) == content


async def test_store_that_does_not_answer_is_told(store: SqliteStore, served: Served) -> None:
    await store.close()
    for call in (
        lambda: served.stub.ListModels(pb.ListModelsRequest(), timeout=60),
        lambda: served.stub.RegisterModel(model_upload(QUICK), timeout=60),
        lambda: served.stub.RegisterDataset(dataset_upload(CSV), timeout=60),
    ):
        failure = await refused(call)
        assert (failure.code, failure.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
