"""The older proxy's routes keep its shapes, and tell the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.aggregator.serving import reference
from tests.artifacts import iris_rows
from tests.gateway.serving import LABELS, SETOSA, VIRGINICA, System, serving_system

pytestmark = pytest.mark.asyncio(loop_scope="module")


def truth(models: Path, rows: Any) -> Any:
    """What ONNX Runtime itself answers, [n, classes]."""
    return reference(models, "iris", LABELS, np.asarray(rows, np.float32))


async def test_one_row_is_answered_with_a_pair_for_each_class(iris: System, models: Path) -> None:
    answer = await iris.call.post("/predict", {"data": [SETOSA]})
    assert answer.status == 200
    assert list(answer.json) == list(LABELS)
    for index, label in enumerate(LABELS):
        p = truth(models, [SETOSA])[0, index]
        assert answer.json[label] == {"prediction": [pytest.approx(p), pytest.approx(1 - p)]}


async def test_several_rows_are_answered_with_a_list_of_pairs(iris: System, models: Path) -> None:
    rows = iris_rows()
    answer = (await iris.call.post("/predict", {"data": rows.tolist()})).json
    told = np.array([answer[label]["prediction"] for label in LABELS], np.float32)
    assert told.shape == (3, len(rows), 2)
    np.testing.assert_array_equal(told[:, :, 0].T, truth(models, rows))
    np.testing.assert_allclose(told.sum(axis=2), 1, atol=1e-6)


async def test_the_label_of_one_row_is_an_object_and_of_several_a_list(iris: System) -> None:
    one = (await iris.call.post("/predict/label", {"data": [SETOSA]})).json
    assert one == {"prediction": {"proba": pytest.approx(0.994, abs=1e-3), "label": "setosa"}}
    both = (await iris.call.post("/predict/label", {"data": [SETOSA, VIRGINICA]})).json
    assert both["prediction"][0] == one["prediction"]
    assert [each["label"] for each in both["prediction"]] == ["setosa", "virginica"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/predict/get/test"), ("GET", "/predict/post/test"), ("POST", "/predict/post/test")],
)
async def test_the_tests_score_the_sample_row(iris: System, method: str, path: str) -> None:
    expected = (await iris.call.post("/predict", {"data": [SETOSA]})).json
    answer = await iris.call.call(method, path)
    assert (answer.status, answer.json) == (200, expected)


async def test_the_posted_test_scores_what_it_is_given(iris: System) -> None:
    expected = (await iris.call.post("/predict", {"data": [VIRGINICA]})).json
    assert (await iris.call.post("/predict/post/test", {"data": [VIRGINICA]})).json == expected


async def test_metadata_says_what_the_ensemble_expects(iris: System) -> None:
    told = (await iris.call.get("/metadata")).json
    assert told["class_labels"] == list(LABELS)
    assert told["sample"] == SETOSA
    assert told["input_shape"] == [-1, 4]
    assert told["default_timeout_s"] == 10.0


async def test_health_tells_the_truth_of_each_class(models: Path, tmp_path: Path) -> None:
    async with serving_system(models, tmp_path) as system:
        whole = await system.call.get("/health/all")
        assert whole.status == 200
        assert {label: whole.json[label]["status"] for label in whole.json} == dict.fromkeys(
            LABELS, "SERVING"
        )
        await system.lose("versicolor")
        answer = await system.call.get("/health/all")
        assert answer.status == 503
        assert {label: each["status"] for label, each in answer.json.items()} == {
            "setosa": "SERVING",
            "versicolor": "NOT_SERVING",
            "virginica": "SERVING",
        }
        assert answer.json["versicolor"]["predictors"][0]["detail"]
        assert (await system.call.get("/health")).json == {"status": "SERVING"}
        assert (await system.call.get("/v2/health/live")).status == 200
        assert (await system.call.get("/v2/health/ready")).status == 503
        ready = await system.call.get("/v2/models/iris/ready")
        assert (ready.status, ready.json) == (503, {"name": "iris", "ready": False})

        failed = await system.call.post("/predict", {"data": [SETOSA]})
        assert (failed.status, failed.json["reason"]) == (503, "PREDICTORS_FAILED")
        assert [each["class_label"] for each in failed.json["missing"]] == ["versicolor"]
        body = {"instances": [SETOSA], "allow_partial": True, "include_probabilities": True}
        partial = (await system.call.post("/v1/ensembles/iris:classify", body)).json
        assert partial["degraded"]
        assert partial["class_labels"] == ["setosa", "virginica"]
        assert partial["classifications"][0]["label"] is None
        assert [each["class_label"] for each in partial["missing"]] == ["versicolor"]
