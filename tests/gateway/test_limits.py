"""What a body may cost: errors are looked for up to their limit, and nothing is quadratic."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from gateway import strict_json
from gateway.ensembles import PredictBody
from gateway.few_errors import CHUNK
from gateway.operation import Strict
from gateway.proxy import Data
from gateway.reading import checked
from gateway.scoring import matrix
from gateway.strict_json import parse
from gateway.tensors import InferRequest
from tests.gateway.serving import System
from trillium.errors import InvalidRequest, MalformedMessage
from trillium.violations import MAX_VIOLATIONS

MANY = 50_000
COPIED_BYTES = 120 * MANY
"""What is right is copied before what is wrong is met; an error for each value takes 900 bytes."""


class Key(str):
    """A key that counts how often one is compared with another."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return super().__eq__(other)

    __hash__ = str.__hash__


def wrong(model: type[BaseModel], value: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        checked(model, value)
    return {each.field: each.description for each in caught.value.violations}


@pytest.fixture
def peak_bytes() -> Iterator[Callable[[], int]]:
    """The most memory that was taken since the call before this."""
    tracemalloc.start()

    def peak() -> int:
        most = tracemalloc.get_traced_memory()[1] - before[0]
        tracemalloc.reset_peak()
        before[0] = tracemalloc.get_traced_memory()[0]
        return most

    before = [0]
    yield peak
    tracemalloc.stop()


def test_a_key_that_comes_twice_is_found_with_a_comparison_for_each_key() -> None:
    pairs = [(Key(f"k{index}"), 0) for index in range(1000)]
    Key.compared = 0
    with pytest.raises(MalformedMessage, match="duplicate key 'k999'"):
        strict_json.object_of([*pairs, (Key("k999"), 0)])
    assert Key.compared < 2 * len(pairs)


def test_many_keys_are_parsed_up_to_the_one_that_comes_twice() -> None:
    raw = "{" + ",".join(f'"k{index}":0' for index in range(100_000)) + ',"k99999":1}'
    with pytest.raises(MalformedMessage, match="duplicate key 'k99999'"):
        parse(raw.encode())


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b'{"instances":[' + b"[]," * strict_json.MOST + b"[]]}", "arrays"),
        (b'{"outputs":[' + b"{}," * strict_json.MOST + b"{}]}", "objects"),
        (b'{"a":0' + b',"b":0' * strict_json.MOST + b"}", "keys"),
        (b'{"data":[0' + b",0" * (strict_json.MOST_VALUES + 1) + b"]}", "values"),
    ],
)
def test_what_becomes_objects_is_counted_before_it_does(
    raw: bytes, what: str, peak_bytes: Callable[[], int]
) -> None:
    with pytest.raises(MalformedMessage, match=rf"holds \d+ {what}: expected at most \d+;"):
        parse(raw)
    assert peak_bytes() < 100_000


def test_no_more_outputs_than_there_are_kinds_are_looked_at(
    peak_bytes: Callable[[], int],
) -> None:
    outputs = [{"name": "label"}] * MANY
    inputs = [{"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]
    peak_bytes()
    assert "outputs" in wrong(InferRequest, {"inputs": inputs, "outputs": outputs})
    assert peak_bytes() < 100_000


@pytest.mark.parametrize(
    ("rows", "first", "last"),
    [
        ([[""] * MANY], "data[0][0]", "data[0][19]"),
        ([[""]] * MANY, "data[0][0]", "data[19][0]"),
        ([[]] * MANY, "data[0]", "data[19]"),
        ([None] * MANY, "data[0]", "data[19]"),
        ([[[]] * MANY] * 3, "data[0][0]", "data[0][19]"),
        ([[1.0] * MANY, [""] * MANY], "data[1][0]", "data[1][19]"),
        ([[1.0]] * MANY + [[""] * 30], f"data[{MANY}][0]", f"data[{MANY}][19]"),
    ],
)
def test_wrong_values_are_reported_up_to_the_limit_and_take_no_memory(
    rows: Any, first: str, last: str, peak_bytes: Callable[[], int]
) -> None:
    for model, key in ((Data, "data"), (PredictBody, "instances")):
        peak_bytes()
        fields = list(wrong(model, {key: rows}))
        assert peak_bytes() < COPIED_BYTES
        assert len(fields) == MAX_VIOLATIONS
        assert (fields[0], fields[-1]) == (first.replace("data", key), last.replace("data", key))


def test_wrong_values_are_reported_wherever_they_are() -> None:
    rows: list[Any] = [[1.0, 2.0]] * (3 * CHUNK)
    rows[1] = [1.0, "x"]
    rows[CHUNK] = 5
    rows[CHUNK + 1] = []
    rows[-1] = [None] * CHUNK + ["", 1.0, True]
    last = 3 * CHUNK - 1
    assert wrong(Data, {"data": rows}) == {
        "data[1][1]": "is 'x'; input should be a valid number",
        f"data[{CHUNK}]": "is 5; input should be a valid list",
        f"data[{CHUNK + 1}]": "is an array of 0; list should have at least 1 item after "
        "validation, not 0",
        f"data[{last}][{CHUNK}]": "is ''; input should be a valid number",
        f"data[{last}][{CHUNK + 2}]": "is true; input should be a valid number",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"data": [""] * MANY},
        {"data": [[""] * MANY]},
        {"data": [[1.0]] * MANY + [[""] * MANY]},
        {"shape": ["x"] * MANY},
        {"shape": [-1] * MANY},
    ],
)
def test_wrong_tensors_are_reported_in_few_words(
    change: dict[str, Any], peak_bytes: Callable[[], int]
) -> None:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1.0], **change}
    peak_bytes()
    assert 1 <= len(wrong(InferRequest, {"inputs": [tensor]})) <= MAX_VIOLATIONS
    assert peak_bytes() < COPIED_BYTES


def test_wrong_outputs_are_reported_up_to_the_limit(peak_bytes: Callable[[], int]) -> None:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "data": [1.0]}
    output = {"name": "label", "parameters": {"classification": "x", "binary_data": 3}}
    peak_bytes()
    fields = wrong(InferRequest, {"inputs": [tensor], "outputs": [output] * MANY})
    assert peak_bytes() < COPIED_BYTES
    assert len(fields) == MAX_VIOLATIONS
    assert "outputs[9].parameters.classification" in fields


@pytest.mark.parametrize("model", Strict.__subclasses__())
def test_unknown_keys_are_reported_up_to_the_limit(
    model: type[BaseModel], peak_bytes: Callable[[], int]
) -> None:
    body = {f"k{index}": 0 for index in range(MANY)}
    peak_bytes()
    fields = wrong(model, body)
    assert peak_bytes() < 2**20
    assert len(fields) == MAX_VIOLATIONS


def test_a_wrong_field_is_reported_before_many_unknown_ones() -> None:
    body = {**{f"k{index}": 0 for index in range(MAX_VIOLATIONS + 9)}, "instances": 5}
    assert next(iter(wrong(PredictBody, body))) == "instances"


def test_rows_of_other_lengths_are_reported_up_to_the_limit(peak_bytes: Callable[[], int]) -> None:
    rows = [[1.0]] + [[1.0, 2.0]] * MANY
    peak_bytes()
    with pytest.raises(InvalidRequest) as caught:
        matrix(rows, "data")
    assert peak_bytes() < 2**20
    assert len(caught.value.violations) == MAX_VIOLATIONS


@pytest.mark.asyncio(loop_scope="module")
async def test_the_parameters_of_a_query_are_counted_first(iris: System) -> None:
    query = "&".join(f"k{index}=1" for index in range(1000))
    answer = await iris.call.get(f"/v1/deployments?{query}")
    assert (answer.status, answer.json["reason"]) == (400, "INVALID_REQUEST")
    assert answer.fields == {"query": "has 1000 parameters: expected at most 256; send fewer"}


@pytest.mark.asyncio(loop_scope="module")
async def test_a_body_of_wrong_values_is_answered_in_few_words(iris: System) -> None:
    body = json.dumps({"data": [[""] * MANY]}).encode()
    answer = await iris.call.post("/predict", body)
    assert (answer.status, len(answer.fields)) == (400, MAX_VIOLATIONS)
    assert len(answer.raw) < 10_000
