"""Scoring by `/v1/ensembles`, ids, and time."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.aggregator.fakes import FakePredictor, hangs, scores
from tests.artifacts import iris_rows
from tests.gateway.serving import LABELS, SETOSA, VIRGINICA, System, gateway_before_fake
from tests.gateway.test_proxy import truth

pytestmark = pytest.mark.asyncio(loop_scope="module")
PREDICT, CLASSIFY = "/v1/ensembles/iris:predict", "/v1/ensembles/iris:classify"


async def test_predict_answers_what_onnx_runtime_would(iris: System, models: Path) -> None:
    rows = iris_rows()
    answer = (await iris.call.post(PREDICT, {"instances": rows.tolist()})).json
    assert (answer["ensemble"], answer["class_labels"]) == ("iris", list(LABELS))
    np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), truth(models, rows))
    assert (answer["degraded"], answer["missing"]) == (False, [])


async def test_classify_answers_labels_and_probabilities_if_asked(
    iris: System, models: Path
) -> None:
    body: dict[str, Any] = {"instances": [SETOSA, VIRGINICA]}
    plain = (await iris.call.post(CLASSIFY, body)).json["classifications"]
    assert [each["label"] for each in plain] == ["setosa", "virginica"]
    assert [each["probabilities"] for each in plain] == [None, None]
    full = (await iris.call.post(CLASSIFY, {**body, "include_probabilities": True})).json
    probabilities = np.array(
        [each["probabilities"] for each in full["classifications"]], np.float32
    )
    np.testing.assert_array_equal(probabilities, truth(models, [SETOSA, VIRGINICA]))


async def test_only_the_classes_that_are_asked_for_answer(iris: System) -> None:
    body = {"instances": [SETOSA], "class_labels": ["virginica"]}
    answer = (await iris.call.post(PREDICT, body)).json
    assert answer["class_labels"] == ["virginica"]
    assert np.shape(answer["predictions"]) == (1, 1)


async def test_the_ensemble_and_its_predictors_are_reported(iris: System) -> None:
    assert (await iris.call.get("/v1/ensembles/iris")).json["feature_count"] == 4
    (only,) = (await iris.call.get("/v1/ensembles")).json["ensembles"]
    assert (only["name"], only["ready"]) == ("iris", True)
    predictors = (await iris.call.get("/v1/ensembles/iris/predictors")).json["predictors"]
    assert [(each["class_label"], each["state"]) for each in predictors] == [
        (label, "READY") for label in LABELS
    ]


@pytest.mark.parametrize("path", ["", "/predictors", ":predict"])
async def test_another_ensemble_is_not_found(iris: System, path: str) -> None:
    place = f"/v1/ensembles/roses{path}"
    body = {"instances": [SETOSA]}
    answer = await (iris.call.post(place, body) if ":" in path else iris.call.get(place))
    assert (answer.status, answer.json["reason"]) == (404, "ENSEMBLE_NOT_FOUND")


async def test_a_request_id_is_passed_on_and_comes_back(
    iris: System, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        answer = await iris.call.post(
            PREDICT, {"instances": [SETOSA]}, headers={"x-request-id": "find-me"}
        )
    assert answer.headers["x-request-id"] == "find-me"
    calls = [each for each in caplog.records if each.name == "trillium.calls"]
    assert any(each.method.endswith("AggregatorService/Predict") for each in calls)  # type: ignore[attr-defined]
    failed = await iris.call.post(PREDICT, {}, headers={"x-request-id": "me-too"})
    assert failed.json["request_id"] == failed.headers["x-request-id"] == "me-too"


@pytest.mark.parametrize("strange", ["ä", "a" * 129, ""])
async def test_a_strange_request_id_is_replaced(iris: System, strange: str) -> None:
    answer = await iris.call.get("/health", headers={"x-request-id": strange})
    assert answer.status == 200
    assert answer.headers["x-request-id"] not in ("", strange)


async def test_the_deadline_travels_with_the_request() -> None:
    place, body = "/v1/ensembles/fake:predict", {"instances": [[0.5, 0.25, 0.125]]}
    fake = FakePredictor(script=[scores, hangs])
    async with gateway_before_fake(fake) as call:
        answer = await call.post(place, body, headers={"request-timeout": "60"})
        assert answer.json["predictions"] == [[0.5]]
        late = await call.post(place, body, headers={"request-timeout": "0.2"})
    assert (late.status, late.json["code"]) == (504, "DEADLINE_EXCEEDED")
    # Without the header it were 10 s.
    assert 10 < fake.requests[0].timeout_us / 1e6 < 60


@pytest.mark.parametrize(
    "text", ["0", "-1", "soon", "nan", "inf", "1_0", "0.0009", "86401", " ", "1e999"]
)
async def test_a_wrong_deadline_is_refused(iris: System, text: str) -> None:
    answer = await iris.call.get("/metadata", headers={"request-timeout": text})
    assert answer.status == 400
    assert list(answer.fields) == ["header request-timeout"]


async def test_many_requests_at_once_are_each_answered_with_their_own(
    iris: System, models: Path
) -> None:
    rows = iris_rows()
    answers = await asyncio.gather(
        *(iris.call.post(PREDICT, {"instances": [row]}) for row in rows.tolist())
    )
    probabilities = np.array([each.json["predictions"][0] for each in answers], np.float32)
    np.testing.assert_allclose(probabilities, truth(models, rows), atol=1e-6)


async def test_float32_values_are_written_as_their_shortest_decimals(iris: System) -> None:
    answer = await iris.call.post(PREDICT, {"instances": [SETOSA]})
    for value in json.loads(answer.text, parse_float=str)["predictions"][0]:
        assert str(np.float32(value)) == str(np.float32(float(value)))
        assert len(value.partition("e")[0].replace("0.", "")) <= 10
