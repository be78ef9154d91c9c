"""Our answers are those of a real Triton server, but for the differences that are listed here.

`golden/triton.json` holds what Triton 2.51.0 answered to every request of `golden/cases.py`;
docs/open_inference.md explains each difference.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from tests.aggregator.serving import IRIS, whole_ensemble
from tests.oip.golden.asking import Answer, answer
from tests.oip.golden.cases import ENSEMBLE_CASES, PREDICTOR_CASES, STREAMS, Case
from tests.oip.golden.reading import outputs, shapes
from tests.predictor.serving import serving

Answers: TypeAlias = Mapping[str, Answer]

TRITON: Answers = json.loads(
    Path(__file__).with_name("golden").joinpath("triton.json").read_text(encoding="utf-8")
)
CASES = (*ENSEMBLE_CASES, *PREDICTOR_CASES)
TOLERANCE = 1e-5
"""Models that another version of scikit-learn has trained may differ in the last bits."""

OTHER_CODES = {
    # Triton reads the leading digits of a version and ignores the rest.
    "ModelReady-version-fraction": "INVALID_ARGUMENT",
    "ModelMetadata-version-fraction": "INVALID_ARGUMENT",
    "ModelConfig-version-fraction": "INVALID_ARGUMENT",
    "ModelStatistics-version-fraction": "INVALID_ARGUMENT",
    # Everywhere else Triton says NOT_FOUND of a model that it does not have.
    "ModelStatistics-unknown": "NOT_FOUND",
    "ModelStatistics-version-0": "NOT_FOUND",
    "ModelStatistics-version-2": "NOT_FOUND",
    # What is wrong with a request is the caller's to mend.
    "no-message": "INVALID_ARGUMENT",
    "shape-4611686018427387904x4": "INVALID_ARGUMENT",
    # Triton takes these; ours would answer nonsense, or something that nobody asked for.
    "not-a-number": "INVALID_ARGUMENT",
    "raw-one-too-many": "INVALID_ARGUMENT",
    "output-twice": "INVALID_ARGUMENT",
    "timeout-negative": "INVALID_ARGUMENT",
    # Triton dies of it.
    "classification-of-label": "INVALID_ARGUMENT",
    # Triton looks for the region; here there can be none.
    "input-shared-memory": "INVALID_ARGUMENT",
    "output-shared-memory": "INVALID_ARGUMENT",
    # Triton says INTERNAL of everything that cannot be loaded, and unloads what is not there.
    "load-unknown": "NOT_FOUND",
    "load-no-name": "INVALID_ARGUMENT",
    "load-path": "INVALID_ARGUMENT",
    "load-with-config": "INVALID_ARGUMENT",
    "unload-unknown": "NOT_FOUND",
    "unload-no-name": "INVALID_ARGUMENT",
    # KServe's client names the model there.
    "load-by-repository-name": "OK",
    "load-in-named-repository": "OK",
}


@pytest.fixture(scope="module")
def ours(models: Path) -> Answers:
    """What our servers answer to every case, by its name."""

    async def ask() -> Answers:
        path = models / "iris-setosa.onnx"
        async with whole_ensemble(models, "iris", IRIS) as aggregator:
            answers = {each.name: await answer(aggregator.channel, each) for each in ENSEMBLE_CASES}
        async with serving(model=path, models_dir=models) as predictor:
            for each in PREDICTOR_CASES:
                answers[each.name] = await answer(predictor.channel, each)
        return answers

    return asyncio.run(ask())


def _cases(rpc: str) -> list[str]:
    """The cases of an RPC that both answer."""
    return [
        each.name
        for each in CASES
        if each.rpc == rpc and TRITON[each.name]["code"] == OTHER_CODES.get(each.name, "OK") == "OK"
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_code_is_tritons(case: Case, ours: Answers) -> None:
    theirs = TRITON[case.name]["code"]
    wanted = OTHER_CODES.get(case.name, theirs)

    assert ours[case.name]["code"] == wanted
    assert wanted == theirs or case.name in OTHER_CODES
    assert bool(ours[case.name]["message"]) == (wanted != "OK")


def test_listed_differences_are_differences() -> None:
    assert OTHER_CODES.keys() <= TRITON.keys()
    assert all(TRITON[name]["code"] != code for name, code in OTHER_CODES.items())


def _without_score(element: bytes) -> bytes:
    """A label, or `index:label` of a classification."""
    return element.partition(b":")[2] or element


def _score(element: bytes) -> float:
    """The score of a classification, which has six decimals; 0 for a label."""
    score, colon, _ = element.partition(b":")
    assert not colon or len(score.partition(b".")[2]) == 6
    return float(score) if colon else 0.0


def _assert_same_outputs(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    for key in ("model_name", "model_version", "id"):
        assert mine.get(key) == theirs.get(key)
    expected = outputs(theirs)
    found = outputs(mine)
    assert found.keys() == expected.keys()
    for name, (datatype, values) in expected.items():
        assert found[name][0] == datatype
        if datatype == "FP32":
            assert found[name][1] == pytest.approx(values, abs=TOLERANCE)
        else:
            assert [_without_score(each) for each in found[name][1]] == [
                _without_score(each) for each in values
            ]
            assert [_score(each) for each in found[name][1]] == pytest.approx(
                [_score(each) for each in values], abs=TOLERANCE
            )
    # Triton cannot have outputs of one value for each row: its label is [n, 1], and ours [n].
    wanted = {
        name: size[:1] if name == "label" else size
        for name, size in shapes(theirs["outputs"], "shape").items()
    }
    assert shapes(mine["outputs"], "shape") == wanted


@pytest.mark.parametrize("name", _cases("ModelInfer"))
def test_answer_is_tritons(name: str, ours: Answers) -> None:
    _assert_same_outputs(ours[name]["response"], TRITON[name]["response"])


@pytest.mark.parametrize("name", [each.name for each in STREAMS])
def test_stream_is_tritons(name: str, ours: Answers) -> None:
    mine, theirs = ours[name]["responses"], TRITON[name]["responses"]

    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert bool(one.get("error_message")) == bool(other.get("error_message"))
        if other.get("error_message"):
            assert one["infer_response"] == other["infer_response"]
        else:
            _assert_same_outputs(one["infer_response"], other["infer_response"])


@pytest.mark.parametrize("name", [*_cases("ModelReady"), *_cases("ServerReady"), "server-live"])
def test_readiness_is_tritons(name: str, ours: Answers) -> None:
    assert ours[name] == TRITON[name]


@pytest.mark.parametrize("name", _cases("ModelMetadata"))
def test_metadata_is_tritons(name: str, ours: Answers) -> None:
    mine, theirs = ours[name]["response"], TRITON[name]["response"]

    assert (mine["name"], mine["versions"]) == (theirs["name"], theirs["versions"])
    assert mine["inputs"] == theirs["inputs"]
    assert [each["datatype"] for each in mine["outputs"]] == ["FP32", "BYTES"]
    assert shapes(mine["outputs"], "shape") == {"probabilities": [-1, 3], "label": [-1]}
    assert shapes(theirs["outputs"], "shape") == {"probabilities": [-1, 3], "label": [-1, 1]}


@pytest.mark.parametrize("name", _cases("ModelConfig"))
def test_config_is_tritons(name: str, ours: Answers) -> None:
    mine, theirs = ours[name]["response"]["config"], TRITON[name]["response"]["config"]

    assert shapes(mine["output"], "dims") == {"probabilities": [3], "label": []}
    for key in ("name", "max_batch_size", "input", "dynamic_batching"):
        assert mine[key] == theirs[key]


def test_index_holds_what_tritons_does(ours: Answers) -> None:
    mine, theirs = (each["index"]["response"]["models"] for each in (ours, TRITON))

    assert [each for each in mine if each in theirs] == theirs
    assert ours["index-ready"] == ours["index"]


def test_only_what_there_is_is_advertised(ours: Answers) -> None:
    mine, theirs = (each["server-metadata"]["response"]["extensions"] for each in (ours, TRITON))

    assert set(mine) < set(theirs)
