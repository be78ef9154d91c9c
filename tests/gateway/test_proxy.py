"""The older proxy's routes keep its formats, with true values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.aggregator.serving import reference
from tests.artifacts import iris_rows, one_column_tensor, with_trillium_metadata
from tests.gateway.serving import (
    LABELS,
    SETOSA,
    VIRGINICA,
    System,
    gateway_before,
    serving_system,
)

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
    pairs = np.array([answer[label]["prediction"] for label in LABELS], np.float32)
    assert pairs.shape == (3, len(rows), 2)
    np.testing.assert_array_equal(pairs[:, :, 0].T, truth(models, rows))
    np.testing.assert_allclose(pairs.sum(axis=2), 1, atol=1e-6)


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


async def test_numbers_have_the_digits_of_the_older_proxy(iris: System, models: Path) -> None:
    answer = await iris.call.post("/predict", {"data": [SETOSA]})
    for index, label in enumerate(LABELS):
        p = float(truth(models, [SETOSA])[0, index])
        assert f'"{label}":{{"prediction":[{p!r},{1 - p!r}]}}' in answer.text
    labelled = await iris.call.post("/predict/label", {"data": [SETOSA]})
    p = float(truth(models, [SETOSA])[0, 0])
    assert labelled.text == f'{{"prediction":{{"proba":{p!r},"label":"setosa"}}}}'


async def test_metadata_is_an_example(iris: System) -> None:
    answer = await iris.call.get("/metadata")
    sample = (await iris.call.get("/predict/get/test")).json
    assert list(answer.json) == [
        "data_type",
        "data_structure",
        "data_sample",
        "prediction_type",
        "prediction_structure",
        "prediction_sample",
    ]
    assert answer.text.startswith(
        '{"data_type":"float32","data_structure":"(1,4)","data_sample":[[5.1,3.5,1.4,0.2]],'
        '"prediction_type":"float32","prediction_structure":"(1,2)","prediction_sample":{"service_setosa":['
    )
    assert answer.json["prediction_sample"] == {
        f"service_{label}": each["prediction"] for label, each in sample.items()
    }


async def test_models_without_a_sample_are_tried_with_the_gateway_s_own(tmp_path: Path) -> None:
    for label in LABELS:
        facts = {"class_label": label, "ensemble": "iris", "positive_column": "0"}
        artifact = with_trillium_metadata(one_column_tensor(), **facts)
        (tmp_path / f"iris-{label}.onnx").write_bytes(artifact)
    async with serving_system(tmp_path, tmp_path) as system:
        refused = await system.call.get("/predict/get/test")
        assert refused.json["reason"] == "NO_SAMPLE"
        bare = (await system.call.get("/metadata")).json
        assert (bare["data_sample"], bare["prediction_sample"]) == ([], {})
        async with gateway_before(system.aggregator, system.controller, sample=tuple(SETOSA)) as (
            _,
            call,
        ):
            expected = (await call.post("/predict", {"data": [SETOSA]})).json
            assert (await call.get("/predict/get/test")).json == expected
            assert (await call.get("/metadata")).json["data_sample"] == [SETOSA]


async def test_health_tells_the_truth_of_each_class(models: Path, tmp_path: Path) -> None:
    async with serving_system(models, tmp_path) as system:
        whole = await system.call.get("/health/all")
        assert whole.status == 200
        assert whole.json == {label: {"health": "ok"} for label in LABELS}
        await system.lose("versicolor")
        answer = await system.call.get("/health/all")
        assert answer.status == 503
        assert answer.json["setosa"] == answer.json["virginica"] == {"health": "ok"}
        assert answer.json["versicolor"]["health"] != "ok"
        assert (await system.call.get("/health")).text == '{"health":"ok"}'
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
