"""A matrix of any size is sent in calls that the server allows, and answered as one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.plans.roster import Endpoint
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.client.conftest import LABELS
from tests.waiting import eventually
from trillium import Classifications, InvalidRequest, Predictions, RemoteError
from trillium.client import wire
from trillium.errors import ClassFailure, Phase

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLOWERS = np.array([[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]])
MANY = np.tile(FLOWERS, (1000, 1))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def narrow(models: Path) -> AsyncIterator[str]:
    """The address of an ensemble that takes 700 rows or 16 KiB in a call."""
    async with AsyncExitStack() as stack:
        endpoints = []
        for label in LABELS:
            config = PredictorConfig(listen="127.0.0.1:0", model=models / f"iris-{label}.onnx")
            running = await stack.enter_async_context(running_predictor(config))
            endpoints.append(Endpoint(label, running.address))
        limits = AggregatorConfig(
            tuple(endpoints), listen="127.0.0.1:0", max_rows=700, max_message_bytes=2**14
        )
        aggregator = await stack.enter_async_context(running_aggregator(limits))
        await eventually(aggregator.roster.all_ready)
        yield aggregator.address


async def test_rows_beyond_the_limits_of_a_call_are_answered_as_one(
    calling: Any, narrow: str
) -> None:
    async with calling(narrow) as caller:
        expected = (await caller("predict", FLOWERS)).probabilities
        answer = await caller("predict", MANY)
        np.testing.assert_allclose(answer.probabilities, np.tile(expected, (1000, 1)), atol=1e-6)
        named = await caller("classify", MANY, include_probabilities=True)
        assert named.labels.tolist() == list(LABELS) * 1000
        np.testing.assert_array_equal(named.class_probabilities, answer.probabilities)
        assert len(named.probabilities) == 3000


async def test_wrong_value_is_named_by_its_row_in_the_whole(calling: Any, narrow: str) -> None:
    wrong = MANY.copy()
    wrong[2500, 2] = np.inf
    async with calling(narrow) as caller:
        with pytest.raises(InvalidRequest, match="row 2500, column 2 is inf"):
            await caller("predict", wrong)


async def test_time_limit_is_for_all_parts_together(calling: Any, narrow: str) -> None:
    async with calling(narrow) as caller:
        assert len((await caller("predict", MANY, timeout_s=20)).probabilities) == 3000


def answer(labels: str, *missing: str) -> Predictions:
    failures = tuple(ClassFailure(each, "", Phase.RUN, "gone", 0.1) for each in missing)
    values = np.array([[float(ord(label)) for label in labels]], np.float32)
    return Predictions("e", tuple(labels), values, failures)


async def test_classes_that_a_part_lacks_are_missing_from_the_whole() -> None:
    joined = wire.joined_predictions([answer("abc"), answer("ca", "b"), answer("ab", "c")])
    assert joined.class_labels == ("a",)
    assert joined.probabilities.tolist() == [[97], [97], [97]]
    assert [each.class_label for each in joined.missing] == ["b", "c"]


async def test_parts_of_two_ensembles_are_refused() -> None:
    with pytest.raises(RemoteError, match="changed between two parts"):
        wire.joined_predictions([answer("ab"), answer("abc")])


def named(labels: str, *values: str | None) -> Classifications:
    return Classifications(
        "e",
        np.array(values, object),
        np.ones(len(values), np.float32),
        tuple(labels),
        np.tile(np.arange(len(labels), dtype=np.float32), (len(values), 1)),
    )


async def test_labels_are_joined_in_order() -> None:
    joined = wire.joined_classifications([named("ab", "a", "b"), named("ba", None)])
    assert joined.labels.tolist() == ["a", "b", None]
    assert joined.class_probabilities is not None
    assert joined.class_probabilities.tolist() == [[0, 1], [0, 1], [1, 0]]


async def test_answers_are_tables_in_a_notebook() -> None:
    shown = answer("a<", "b&")._repr_html_()
    assert "<tr><th></th><th>a</th><th>&lt;</th></tr>" in shown
    assert "<tr><td>0</td><td>97.0000</td><td>60.0000</td></tr>" in shown
    assert "<p>missing: b&amp; at " in shown
    labelled = named("ab", *["a"] * 30, None)._repr_html_()
    assert "<td>19</td><td>a</td><td>1.0000</td>" in labelled
    assert "<p>and 11 more rows</p>" in labelled
    assert "undecided" in named("ab", None)._repr_html_()
