"""What both clients promise, against real servers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.client.conftest import LABELS, Caller, Ensemble
from trillium import InvalidRequest, Phase, PredictorsFailed, PredictorState, RemoteError

pytestmark = pytest.mark.asyncio(loop_scope="module")

FLOWERS = [[5.1, 3.5, 1.4, 0.2], [7.0, 3.2, 4.7, 1.4], [6.3, 3.3, 6.0, 2.5]]


def reference(models: Path, rows: Any) -> Any:
    """What ONNX Runtime itself answers: [n, classes]."""
    feed = {"input": np.asarray(rows, np.float32)}
    columns = [
        onnxruntime.InferenceSession(models / f"iris-{label}.onnx").run(["probabilities"], feed)
        for label in LABELS
    ]
    return np.stack([column[0][:, 1] for column in columns], axis=1)


async def test_predict_answers_what_the_models_answer(caller: Caller, models: Path) -> None:
    answer = await caller("predict", FLOWERS)
    assert answer.ensemble == "iris"
    assert answer.class_labels == LABELS
    assert answer.probabilities.dtype == np.float32
    assert answer.probabilities.flags.writeable
    np.testing.assert_array_equal(answer.probabilities, reference(models, FLOWERS))
    assert not answer.degraded


async def test_classify_answers_labels_and_all_probabilities(caller: Caller, models: Path) -> None:
    answer = await caller("classify", FLOWERS, include_probabilities=True)
    assert answer.labels.tolist() == list(LABELS)
    assert answer.class_labels == LABELS
    np.testing.assert_array_equal(answer.class_probabilities, reference(models, FLOWERS))
    np.testing.assert_array_equal(answer.probabilities, answer.class_probabilities.max(axis=1))


async def test_classify_leaves_out_probabilities_that_nobody_asked_for(caller: Caller) -> None:
    answer = await caller("classify", FLOWERS)
    assert answer.class_probabilities is None


class FrameLike:
    """A table that numpy can read, as a DataFrame is."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.array(FLOWERS, dtype)


@pytest.mark.parametrize(
    "rows",
    [
        np.array(FLOWERS),
        np.array(FLOWERS, ">f8"),
        np.array(FLOWERS, np.float32, order="F"),
        np.repeat(np.array(FLOWERS, np.float32), 2, axis=0)[::2],
        tuple(map(tuple, FLOWERS)),
        FrameLike(),
    ],
)
async def test_rows_may_be_anything_that_numpy_reads(caller: Caller, rows: Any) -> None:
    assert (await caller("classify", rows)).labels.tolist() == list(LABELS)


async def test_one_row_may_come_flat_and_as_integers(caller: Caller) -> None:
    answer = await caller("predict", [5, 3, 1, 0])
    assert answer.probabilities.shape == (1, 3)


async def test_only_the_named_classes_are_asked(caller: Caller, models: Path) -> None:
    answer = await caller("predict", FLOWERS, class_labels=["virginica"])
    assert answer.class_labels == ("virginica",)
    np.testing.assert_array_equal(answer.probabilities, reference(models, FLOWERS)[:, 2:])


async def test_violations_come_back_as_they_left_the_server(caller: Caller) -> None:
    rows = np.array(FLOWERS)
    rows[1, 2] = np.nan
    with pytest.raises(InvalidRequest, match=r"row 1, column 2 is nan") as raised:
        await caller("predict", rows, request_id="my-call-7")
    assert [violation.field for violation in raised.value.violations] == ["matrix.data"]
    assert raised.value.request_id == "my-call-7"
    assert raised.value.__cause__ is not None


async def test_a_value_too_large_for_float32_is_refused(caller: Caller) -> None:
    with pytest.raises(InvalidRequest, match="row 0, column 3 is inf"):
        await caller("classify", [1, 2, 3, 1e300])


async def test_a_lost_class_fails_the_call_and_is_named(
    fragile_caller: Caller, fragile: Ensemble
) -> None:
    await fragile.lose("versicolor")
    with pytest.raises(PredictorsFailed) as raised:
        await fragile_caller("predict", FLOWERS)
    (failure,) = raised.value.failures
    assert (failure.class_label, failure.phase) == ("versicolor", Phase.CONNECT)


async def test_a_partial_answer_lists_what_is_missing(
    fragile_caller: Caller, fragile: Ensemble, models: Path
) -> None:
    await fragile.lose("versicolor")
    answer = await fragile_caller("predict", FLOWERS, allow_partial=True)
    assert answer.class_labels == ("setosa", "virginica")
    assert answer.degraded
    assert [failure.class_label for failure in answer.missing] == ["versicolor"]
    np.testing.assert_array_equal(answer.probabilities, reference(models, FLOWERS)[:, [0, 2]])


async def test_a_row_that_the_lost_class_could_have_won_has_no_label(
    fragile_caller: Caller, fragile: Ensemble
) -> None:
    await fragile.lose("versicolor")
    answer = await fragile_caller("classify", FLOWERS[1], allow_partial=True)
    assert answer.degraded
    assert answer.labels.tolist() == [None]
    assert answer.probabilities.tolist() == [0]


async def test_the_sample_is_scored(caller: Caller) -> None:
    score = await caller("predict_sample")
    np.testing.assert_allclose(score.features, FLOWERS[0])
    assert score.label == "setosa"
    assert score.probabilities.argmax() == score.class_labels.index("setosa")


async def test_metadata_says_what_is_expected(caller: Caller) -> None:
    metadata = await caller("metadata")
    assert (metadata.ensemble, metadata.class_labels) == ("iris", LABELS)
    assert metadata.feature_count == len(metadata.feature_names) == 4
    assert (metadata.input_shape, metadata.output_shape) == ((-1, 4), (-1, 3))
    assert metadata.sample == (5.1, 3.5, 1.4, 0.2)
    assert metadata.default_timeout_s == 10


async def test_predictors_are_listed_with_their_state(
    fragile_caller: Caller, fragile: Ensemble
) -> None:
    ready = await fragile_caller("predictors")
    assert [each.class_label for each in ready] == list(LABELS)
    assert {each.state for each in ready} == {PredictorState.READY}
    assert all(len(each.model_digest) == 64 for each in ready)
    assert all(datetime.now(UTC) - each.since < timedelta(minutes=5) for each in ready)
    await fragile.lose("setosa")
    lost = (await fragile_caller("predictors"))[0]
    assert lost.state is not PredictorState.READY
    assert lost.detail


async def test_health_tells_whether_it_serves(fragile_caller: Caller, fragile: Ensemble) -> None:
    service = "trillium.aggregator.v1.AggregatorService"
    assert await fragile_caller("is_serving")
    assert await fragile_caller("is_serving", service)
    await fragile.lose("setosa")
    assert not await fragile_caller("is_serving")


async def test_health_of_a_service_that_there_is_not_is_an_error(caller: Caller) -> None:
    with pytest.raises(RemoteError, match="no service 'nonsense'"):
        await caller("is_serving", "nonsense")


async def test_a_stream_answers_every_batch_in_order(caller: Caller, models: Path) -> None:
    batches = [np.array(FLOWERS) + shift / 10 for shift in range(40)]
    answers = [each async for each in caller.stream(batches)]
    assert len(answers) == len(batches)
    for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_array_equal(answer.probabilities, reference(models, batch))


async def test_a_stream_of_nothing_answers_nothing(caller: Caller) -> None:
    assert [each async for each in caller.stream([])] == []


async def test_a_stream_raises_the_error_of_the_batch_that_failed(caller: Caller) -> None:
    answers = caller.stream([FLOWERS, FLOWERS, [[1, 2]], FLOWERS])
    assert len([await anext(answers), await anext(answers)]) == 2
    with pytest.raises(InvalidRequest, match="the model has 4 features") as raised:
        await anext(answers)
    assert raised.value.__notes__ == ["in batch 2, counted from 0"]
