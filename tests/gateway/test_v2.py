"""The Open Inference Protocol over HTTP, by Triton's own clients and by hand."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.aggregator.fakes import FakePredictor, hangs, scores
from tests.artifacts import iris_rows
from tests.gateway.serving import (
    LABELS,
    SETOSA,
    VIRGINICA,
    Answer,
    System,
    gateway_before_fake,
)
from tests.gateway.test_proxy import truth

pytestmark = pytest.mark.asyncio(loop_scope="module")

INFER = "/v2/models/iris/infer"


def tensor(rows: Any, *, binary: bool = True) -> Any:
    """The input as tritonclient has it."""
    made = triton.InferInput("input", list(np.shape(rows)), "FP32")
    made.set_data_from_numpy(np.asarray(rows, np.float32), binary_data=binary)
    return made


def asked(**changes: Any) -> dict[str, Any]:
    """A request in JSON with one row, with `changes` to its input."""
    one = {"name": "input", "shape": [1, 4], "datatype": "FP32", "data": SETOSA}
    return {"inputs": [{**one, **changes}]}


async def in_thread(iris: System, work: Any) -> Any:
    """`work` with a synchronous tritonclient; its loop is a thread's own."""

    def run() -> Any:
        with triton.InferenceServerClient(iris.gateway.address) as client:
            return work(client)

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
async def test_tritonclient_infers(
    iris: System, models: Path, binary_in: bool, binary_out: bool
) -> None:
    rows = iris_rows()
    names = ("label", "probabilities")
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in names]

    def work(client: Any) -> Any:
        return client.infer(
            "iris", [tensor(rows, binary=binary_in)], outputs=outputs, request_id="r1"
        )

    result = await in_thread(iris, work)
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("r1", "iris")
    assert [each["name"] for each in response["outputs"]] == list(names)
    expected = truth(models, rows)
    np.testing.assert_array_equal(result.as_numpy("probabilities"), expected)
    labels = result.as_numpy("label")
    texts = [each.decode() if isinstance(each, bytes) else each for each in labels]
    assert texts == [LABELS[index] for index in expected.argmax(axis=1)]


async def test_tritonclient_infers_without_naming_outputs(iris: System, models: Path) -> None:
    result = await in_thread(iris, lambda client: client.infer("iris", [tensor([SETOSA])]))
    np.testing.assert_array_equal(result.as_numpy("probabilities"), truth(models, [SETOSA]))
    assert result.as_numpy("label").tolist() == [b"setosa"]


async def test_tritonclient_gets_the_best_classes(iris: System) -> None:
    output = triton.InferRequestedOutput("probabilities", class_count=2)

    def work(client: Any) -> Any:
        return client.infer("iris", [tensor([SETOSA, VIRGINICA])], outputs=[output])

    best = (await in_thread(iris, work)).as_numpy("probabilities")
    assert best.shape == (2, 2)
    score, index, label = best[1, 0].decode().split(":")
    assert (float(score) > 0.9, index, label) == (True, "2", "virginica")


async def test_tritonclient_asks_for_health_and_metadata(iris: System) -> None:
    def work(client: Any) -> Any:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("iris")
        assert client.is_model_ready("iris", "1")
        assert not client.is_model_ready("roses")
        assert not client.is_model_ready("iris", "2")
        return client.get_server_metadata(), client.get_model_metadata("iris", "1")

    server, model = await in_thread(iris, work)
    assert server["name"] == "trillium-aggregator"
    assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])
    assert model["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert [each["name"] for each in model["outputs"]] == ["probabilities", "label"]


async def test_each_class_is_a_model_too(iris: System, models: Path) -> None:
    def work(client: Any) -> Any:
        assert client.is_model_ready("iris-virginica")
        assert not client.is_model_ready("iris-rose")
        result = client.infer("iris-virginica", [tensor([SETOSA, VIRGINICA])], model_version="1")
        return client.get_model_metadata("iris-virginica"), result

    model, result = await in_thread(iris, work)
    assert (model["name"], model["versions"]) == ("iris-virginica", ["1"])
    assert model["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 1]}]
    expected = truth(models, [SETOSA, VIRGINICA])[:, 2:]
    np.testing.assert_array_equal(result.as_numpy("probabilities"), expected)
    assert [each["name"] for each in result.get_response()["outputs"]] == ["probabilities"]


async def test_tritonclient_reads_configuration_statistics_and_the_index(iris: System) -> None:
    def work(client: Any) -> Any:
        client.infer("iris", [tensor([SETOSA])])
        return (
            client.get_model_config("iris"),
            client.get_inference_statistics("iris", "1"),
            client.get_inference_statistics(),
            client.get_model_repository_index(),
        )

    config, one, every, index = await in_thread(iris, work)
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [4]}]
    assert one["model_stats"][0]["inference_count"] > 0
    names = ["iris", *(f"iris-{label}" for label in LABELS)]
    assert [each["name"] for each in every["model_stats"]] == names
    assert [(each["name"], each["state"]) for each in index] == [(name, "READY") for name in names]
    ready = (await iris.call.post("/v2/repository/index", {"ready": True})).json
    assert ready == index


async def test_the_name_of_a_model_may_hold_a_slash() -> None:
    fake = FakePredictor(class_label="a/b:ready")
    row = asked(shape=[1, 3], data=[0.5, 0.25, 0.125])
    async with gateway_before_fake(fake) as call:
        for name in ("fake-a/b:ready", "fake-a%2Fb%3Aready"):
            assert (await call.get(f"/v2/models/{name}")).json["name"] == "fake-a/b:ready"
            assert (await call.get(f"/v2/models/{name}/versions/1/ready")).json["ready"]
            assert (await call.post(f"/v2/models/{name}/infer", row)).status == 200


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v2/models/roses", "MODEL_NOT_FOUND"),
        ("/v2/models/iris/versions/2", "MODEL_NOT_FOUND"),
        ("/v2/models/roses/config", "MODEL_NOT_FOUND"),
        ("/v2/models/iris-rose/stats", "MODEL_NOT_FOUND"),
        ("/v2/models/iris/ready/now", "MODEL_NOT_FOUND"),
    ],
)
async def test_an_unknown_model_is_not_found(iris: System, path: str, reason: str) -> None:
    answer = await iris.call.get(path)
    assert (answer.status, answer.json["reason"]) == (404, reason)
    assert answer.json["error"] == answer.json["detail"]


@pytest.mark.parametrize(
    ("model", "rows", "status", "shown"),
    [
        ("roses", [SETOSA], "404", "roses"),
        ("iris", [SETOSA[:3]], "400", "[rows, 4]"),
        ("iris", [[float("nan")] * 4], "400", "column 0 is nan"),
    ],
)
async def test_tritonclient_reads_our_errors(
    iris: System, model: str, rows: Any, status: str, shown: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        await in_thread(iris, lambda client: client.infer(model, [tensor(rows)]))
    assert caught.value.status() == status
    assert shown in caught.value.message()


async def test_the_asyncio_tritonclient_works_too(iris: System, models: Path) -> None:
    async with triton_aio.InferenceServerClient(iris.gateway.address) as client:
        assert await client.is_model_ready("iris")
        result = await client.infer("iris", [tensor([VIRGINICA])])
        np.testing.assert_array_equal(result.as_numpy("probabilities"), truth(models, [VIRGINICA]))


async def infer(iris: System, header: Any, raw: bytes = b"", length: str | None = None) -> Answer:
    """What the gateway answers to JSON with raw tensors after it."""
    text = json.dumps(header).encode()
    options = {"content-type": "application/octet-stream"}
    if raw or length is not None:
        options["inference-header-content-length"] = str(len(text)) if length is None else length
    return await iris.call.post(INFER, text + raw, headers=options)


async def test_rows_may_be_nested_or_flat(iris: System) -> None:
    flat = (await infer(iris, asked(shape=[2, 4], data=SETOSA + VIRGINICA))).json
    nested = (await infer(iris, asked(shape=[2, 4], data=[SETOSA, VIRGINICA]))).json
    assert flat == nested
    assert flat["outputs"][1]["data"] == ["setosa", "virginica"]


@pytest.mark.parametrize(
    ("header", "raw", "field"),
    [
        (asked(name="x"), b"", "inputs[0].name"),
        (asked(datatype="FP64"), b"", "inputs[0].datatype"),
        (asked(shape=[4]), b"", "inputs[0].shape"),
        (asked(shape=[0, 4]), b"", "inputs[0].shape[0]"),
        (asked(shape=[-1, 4]), b"", "inputs[0].shape[0]"),
        (asked(shape=[2, 4]), b"", "inputs[0].data"),
        (asked(data=[[5.1, 3.5], [1.4, 0.2]]), b"", "inputs[0].data"),
        (asked(data=[]), b"", "inputs[0].data"),
        (asked(data=[[1, 2, 3, "4"]]), b"", "inputs[0].data[0][3]"),
        (asked(data=[1, 2, 3, 1e39]), b"", "inputs[0].data"),
        (asked(data=None), b"", "inputs[0].data"),
        (asked(data=None, parameters={"binary_data_size": 15}), bytes(15), "inputs[0]"),
        (asked(parameters={"binary_data_size": 16}), bytes(16), "inputs[0].data"),
        (asked(data=None, parameters={"binary_data_size": 16}), bytes(17),
         "inputs[0].parameters.binary_data_size"),
        ({"inputs": []}, b"", "inputs"),
        ({"inputs": asked()["inputs"] * 2}, b"", "inputs"),
        ({**asked(), "outputs": [{"name": "scores"}]}, b"", "outputs[0].name"),
        ({**asked(), "outputs": [{"name": "label"}] * 2}, b"", "outputs[1].name"),
        ({**asked(), "outputs": [{"name": "label", "parameters": {"classification": 1}}]}, b"",
         "outputs[0].parameters.classification"),
    ],
)  # fmt: skip
async def test_a_wrong_request_is_reported_by_field(
    iris: System, header: Any, raw: bytes, field: str
) -> None:
    answer = await infer(iris, header, raw)
    assert answer.status == 400
    assert field in answer.fields
    assert answer.json["error"] == answer.json["detail"]


@pytest.mark.parametrize("length", ["-1", "x", "100000", "1e2", ""])
async def test_a_wrong_length_of_the_json_is_refused(iris: System, length: str) -> None:
    answer = await infer(iris, asked(), length=length)
    assert list(answer.fields) == ["header inference-header-content-length"]


async def test_the_timeout_parameter_is_a_deadline() -> None:
    row = asked(shape=[1, 3], data=[0.5, 0.25, 0.125])
    headers = {"request-timeout": "3600"}
    fake = FakePredictor(script=[scores, hangs])
    async with gateway_before_fake(fake) as call:
        place, minute = "/v2/models/fake/infer", {**row, "parameters": {"timeout": 60_000_000}}
        assert (await call.post(place, minute, headers=headers)).status == 200
        late = await call.post(place, {**row, "parameters": {"timeout": 200_000}}, headers=headers)
    assert (late.status, late.json["code"]) == (504, "DEADLINE_EXCEEDED")
    assert 10 < fake.requests[0].timeout_us / 1e6 < 60
