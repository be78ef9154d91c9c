"""Clients that people have, as they come from the package index: tritonclient, kserve, grpcurl.

tritonclient and kserve cannot be imported together, so each has an environment of its own, filled
from the index that the person's pip uses: without one these tests fail.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.acceptance.processes import grpcurl
from tests.aggregator.serving import IRIS, Aggregated, reference
from tests.environment import created
from tests.oip.golden.cases import FLOWERS
from tests.predictor.serving import Served

CLIENTS = Path(__file__).with_name("clients")
TRITON = "tritonclient[grpc]==2.73.0"
KSERVE = "kserve==0.21.0"
SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def scores(models: Path) -> npt.NDArray[np.float32]:
    """What ONNX Runtime itself answers for the flowers."""
    return reference(models, "iris", IRIS, np.array(FLOWERS, np.float32))


async def _run(
    package: str, script: str, folder: Path, aggregator: Aggregated, predictor: Served
) -> Any:
    """What a script prints in an environment that holds nothing but `package`."""
    addresses = (aggregator.aggregator.address, predictor.predictor.address)
    code = (CLIENTS / script).read_text(encoding="utf-8")
    environment = created(folder / "environment")
    await asyncio.to_thread(environment.install, package)
    return await asyncio.to_thread(environment.run, code, *addresses, cwd=folder)


@pytest.mark.packaging
@pytest.mark.timeout(900)
async def test_tritonclient_works_as_it_is(
    aggregator: Aggregated, predictor: Served, scores: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    found = await _run(TRITON, "with_tritonclient.py", tmp_path, aggregator, predictor)

    answer = {"probabilities": scores.tolist(), "label": list(IRIS)}
    asked = found["synchronous"]
    assert asked["infer"] == {"id": "7", **answer}
    for how in ("priority", "async_infer", "compressed"):
        assert asked[how] == {"id": "", **answer}
    assert [row[0].split(":")[1:] for row in asked["classes"]] == [
        [str(index), label] for index, label in enumerate(IRIS)
    ]
    assert asked["outputs"] == ["label", "probabilities"]
    assert asked["failures"] == {
        "model": "StatusCode.NOT_FOUND",
        "version": "StatusCode.INVALID_ARGUMENT",
        "input": "StatusCode.INVALID_ARGUMENT",
        "datatype": "StatusCode.INVALID_ARGUMENT",
        "shape": "StatusCode.INVALID_ARGUMENT",
        "metadata": "StatusCode.NOT_FOUND",
        "shared memory": "StatusCode.UNIMPLEMENTED",
    }
    first, wrong, last = found["stream"]
    assert (first, last) == ({"id": "0", **answer}, {"id": "2", **answer})
    assert "inputs[0].name: is 'X'" in wrong
    assert found["asynchronous"]["ready"]
    assert found["asynchronous"]["infer"] == [{"id": str(i), **answer} for i in range(8)]
    assert found["asynchronous"]["stream"] == [{"id": str(i), **answer} for i in range(3)]
    _assert_described(found["aggregator"], "trillium-aggregator", "iris", 3)
    _assert_described(found["predictor"], "trillium-predictor", "iris-setosa", 1)
    assert found["refused"] == "StatusCode.UNIMPLEMENTED"
    assert found["repository"] == {
        "probabilities": scores[:, :1].tolist(),
        "unloaded_ready": False,
        "loaded_ready": True,
        "loaded": scores[:, 2:].tolist(),
        "unknown": "StatusCode.NOT_FOUND",
    }


def _assert_described(told: Any, server: str, model: str, class_count: int) -> None:
    assert told["live"]
    assert told["ready"]
    assert told["model_ready"]
    assert not told["unknown_ready"]
    assert told["server"]["name"] == server
    assert "statistics" in told["server"]["extensions"]
    assert told["metadata"]["outputs"][0]["shape"] == ["-1", str(class_count)]
    assert told["config"]["config"]["output"][0]["dims"] == [str(class_count)]
    assert {"name": model, "version": "1", "state": "READY"} in told["index"]["models"]
    (done,) = told["statistics"]["model_stats"]
    assert int(done["inference_stats"]["success"]["count"]) > 0


@pytest.mark.packaging
@pytest.mark.timeout(900)
async def test_kserves_client_works_as_it_is(
    aggregator: Aggregated, predictor: Served, scores: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    found = await _run(KSERVE, "with_kserve.py", tmp_path, aggregator, predictor)

    answer = {"id": "7", "probabilities": scores.tolist(), "label": list(IRIS)}
    assert found == {
        "live": True,
        "ready": True,
        "model_ready": True,
        "unknown_ready": False,
        "raw": answer,
        "typed": answer,
        "predictor": {"id": "7", "probabilities": scores[:, :1].tolist(), "label": []},
        "unknown": "NOT_FOUND",
        "shape": "INVALID_ARGUMENT",
        "repository": {
            "unloaded": ["iris-setosa", True],
            "loaded": ["iris-setosa", True],
            "inputs": [["input", "FP32", [-1, 4]]],
        },
    }


async def test_grpcurl_needs_no_proto(
    aggregator: Aggregated, predictor: Served, scores: npt.NDArray[np.float32]
) -> None:
    for address, model, classes in (
        (aggregator.aggregator.address, "iris", 3),
        (predictor.predictor.address, "iris-setosa", 1),
    ):
        rows = {"fp32_contents": np.array(FLOWERS).ravel().tolist()}
        tensor = {"name": "input", "datatype": "FP32", "shape": [3, 4], "contents": rows}
        body = json.dumps({"model_name": model, "inputs": [tensor]})
        answer = json.loads(await grpcurl("-d", body, address, f"{SERVICE}/ModelInfer"))
        values = answer["outputs"][0]["contents"]["fp32Contents"]
        assert values == pytest.approx(scores[:, :classes].ravel().tolist(), abs=1e-6)
        ready = json.loads(await grpcurl(address, f"{SERVICE}/ServerReady"))
        assert ready == {"ready": True}
        assert "rpc ModelInfer" in await grpcurl(address, "describe", SERVICE)
