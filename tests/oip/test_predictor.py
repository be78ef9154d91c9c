"""The Open Inference Protocol on a predictor: its model, the repository, statistics."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.aggregator.serving import failure_of
from tests.oip.calling import call, numbers, question
from tests.oip.golden.cases import wanted
from tests.predictor.endless import ENDLESS_ROWS, endless_on_demand
from tests.predictor.serving import Served, serving
from tests.sound_artifacts import iris_rows
from tests.waiting import eventually
from trillium.oip import open_inference_pb2 as pb
from trillium.rows import Rows


async def test_its_model_answers_as_predict_does(predictor: Served) -> None:
    rows = np.tile(iris_rows(), (30, 1))

    response = await call(predictor.channel, "ModelInfer", question(rows, "iris-setosa"))

    assert np.array_equal(numbers(response)[:, 0], await predictor.scores(rows))
    metadata = await call(predictor.channel, "ModelMetadata", name="iris-setosa")
    assert metadata.platform == "onnxruntime_onnx"
    assert [(each.name, list(each.shape)) for each in metadata.outputs] == [
        ("probabilities", [-1, 1])
    ]


async def test_classes_are_named_by_the_model(predictor: Served) -> None:
    request = question(
        [[5.1, 3.5, 1.4, 0.2]], "iris-setosa", outputs=[wanted("probabilities", classification=2)]
    )

    response = await call(predictor.channel, "ModelInfer", request)

    (content,) = response.raw_output_contents
    assert list(response.outputs[0].shape) == [1, 1]
    score, index, label = content[4:].decode().split(":")
    assert (index, label) == ("0", "setosa")
    assert float(score) > 0.9


async def test_another_model_is_loaded_in_its_place(predictor: Served) -> None:
    rows = iris_rows()[:3]
    await call(predictor.channel, "ModelInfer", question(rows, "iris-setosa"))

    loaded = await call(predictor.channel, "RepositoryModelLoad", model_name="iris-virginica")

    assert (loaded.model_name, loaded.is_loaded) == ("iris-virginica", True)
    assert (await predictor.get()).model.class_label == "virginica"
    listed = (await call(predictor.channel, "RepositoryIndex")).models
    assert {each.name: (each.version, each.state) for each in listed} == {
        "iris-setosa": ("", "UNAVAILABLE"),
        "iris-versicolor": ("", "UNAVAILABLE"),
        "iris-virginica": ("1", "READY"),
    }
    (told,) = (await call(predictor.channel, "ModelStatistics")).model_stats
    assert (told.name, told.inference_count) == ("iris-virginica", 0)


async def test_statistics_count_every_run(predictor: Served) -> None:
    rows = iris_rows()
    await call(predictor.channel, "ModelInfer", question(rows[:5], "iris-setosa"))
    await predictor.scores(rows[:7])
    await predictor.scores(np.tile(rows, (400, 1)))  # so many that they leave the event loop

    (told,) = (await call(predictor.channel, "ModelStatistics", name="iris-setosa")).model_stats

    assert (told.inference_count, told.execution_count) == (12 + 60_000, 3)
    times = told.inference_stats
    assert (times.success.count, times.fail.count, times.compute_output.count) == (3, 0, 1)
    assert times.queue.ns > 0
    assert times.compute_infer.ns > times.compute_output.ns > 0


async def test_kserve_names_the_model_in_the_first_field(predictor: Served) -> None:
    unload = pb.RepositoryModelUnloadRequest(repository_name="iris-setosa")

    gone = await call(predictor.channel, "RepositoryModelUnload", unload)

    assert (gone.model_name, gone.is_unloaded) == ("iris-setosa", True)
    assert not (await call(predictor.channel, "ServerReady")).ready
    load = pb.RepositoryModelLoadRequest(repository_name="iris-setosa")
    assert (await call(predictor.channel, "RepositoryModelLoad", load)).is_loaded
    assert (await call(predictor.channel, "ServerReady")).ready


@pytest.mark.parametrize("rpc", ["RepositoryModelLoad", "RepositoryModelUnload"])
async def test_without_a_models_folder_there_is_nothing_by_name(models: Path, rpc: str) -> None:
    async with serving(model=models / "iris-setosa.onnx") as predictor:
        failed = await failure_of(call(predictor.channel, rpc, model_name="iris-virginica"))

        assert (failed.code, failed.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert (await call(predictor.channel, "ModelReady", name="iris-setosa")).ready


async def test_a_model_that_was_refused_leaves_the_old_one(models: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    async with serving(model=models / "iris-setosa.onnx", models_dir=tmp_path) as predictor:
        load = call(predictor.channel, "RepositoryModelLoad", model_name="broken")
        failed = await failure_of(load)

        assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_REJECTED")
        assert (await call(predictor.channel, "ModelReady", name="iris-setosa")).ready


async def test_a_full_queue_is_unavailable_and_says_when_to_come_again() -> None:
    async with serving(endless_on_demand()) as predictor:
        endless = asyncio.ensure_future(asked(predictor, ENDLESS_ROWS))
        await eventually(lambda: predictor.host.model.runs == 1)
        waiting = [asyncio.ensure_future(asked(predictor, iris_rows()[:1])) for _ in range(63)]
        await eventually(lambda: predictor.host.model.runs == 64)

        failed = await failure_of(asked(predictor, iris_rows()[:1]))

        assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "OVERLOADED")
        assert failed.retry_s > 0
        endless.cancel()
        for each in await asyncio.gather(*waiting):
            assert numbers(each).shape == (1, 1)


async def asked(predictor: Served, rows: Rows) -> pb.ModelInferResponse:
    """What the model answers for `rows`."""
    response: pb.ModelInferResponse = await call(
        predictor.channel, "ModelInfer", question(rows, "setosa")
    )
    return response
