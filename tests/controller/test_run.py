"""The run as a value: its table, its bodies, its chunks and what they say of the model."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.deployments.document import Deployment, Instance, InstancePhase, Spec, Target
from controller.runs.bodies import run_body, run_of
from controller.runs.results import Chunk, Result, Tally, chunk_body, chunk_of
from controller.runs.run import (
    FOLLOWS,
    LIVE,
    Evaluation,
    InvalidStep,
    Lease,
    Order,
    Run,
    RunState,
    beaten,
    moved,
    progressed,
    taken,
    tried_again,
)
from controller.runs.source import ScoringData, ScoringModel, fitting_columns
from controller.runs.work import Patience, addresses_of, why_hopeless
from controller.store import codec
from trillium.errors import InvalidRequest

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
ENDS = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT)
SPEC = Spec("iris-setosa", 1, "ab" * 32, "setosa", target=Target.LOADED)
RUN = Run(
    id="r1",
    order=Order("iris-setosa", 0, "iris", 0, "", 60.0),
    model="iris-setosa",
    model_version=1,
    digest=SPEC.digest,
    class_label="setosa",
    dataset="iris",
    dataset_version=1,
    labelled=True,
    deployment="run-r1",
    temporary=True,
    rows_total=25,
    chunk_rows=10,
    created=NOW,
    deadline=NOW + timedelta(minutes=1),
    expires=NOW + timedelta(days=7),
)


def test_the_table_is_exactly_this() -> None:
    early = {RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT}
    assert {state: set(after) for state, after in FOLLOWS.items()} == {
        RunState.QUEUED: {RunState.PREPARING, *early},
        RunState.PREPARING: {RunState.RUNNING, *early},
        RunState.RUNNING: {RunState.COLLECTING, *early},
        RunState.COLLECTING: {RunState.SUCCEEDED, *early},
        **{end: set() for end in ENDS},
    }
    assert set(LIVE) | set(ENDS) == set(RunState)


@pytest.mark.parametrize("before", RunState)
@pytest.mark.parametrize("after", RunState)
def test_a_step_is_taken_if_and_only_if_it_is_in_the_table(
    before: RunState, after: RunState
) -> None:
    run = replace(RUN, state=before)
    if after not in FOLLOWS[before]:
        with pytest.raises(InvalidStep, match=f"from {before.value} to {after.value}"):
            moved(run, after, NOW)
        return
    step = moved(run, after, NOW, detail="so")
    assert (step.state, step.detail, step.has_ended) == (after, "so", after in ENDS)
    assert step.ended == (NOW if after in ENDS else None)


def test_no_path_comes_back_to_a_state() -> None:
    def longest(state: RunState) -> int:
        return 1 + max((longest(after) for after in FOLLOWS[state]), default=0)

    assert longest(RunState.QUEUED) == 5


@pytest.mark.parametrize("state", RunState)
def test_a_run_is_taken_with_a_higher_epoch_and_another_attempt_unless_it_has_ended(
    state: RunState,
) -> None:
    run = replace(RUN, state=state, lease=Lease("a", 3, 9), attempts=2, fruitless=1)
    if state in ENDS:
        with pytest.raises(InvalidStep):
            taken(run, "b", NOW)
        return
    mine = taken(run, "b", NOW)
    assert (mine.lease.holder, mine.lease.epoch, mine.attempts) == ("b", 4, 3)
    assert mine.fruitless == 2
    assert mine.lease.beat > run.lease.beat
    assert mine.state is (RunState.PREPARING if state is RunState.QUEUED else state)


def test_progress_forgives_the_attempts_before() -> None:
    run = tried_again(replace(RUN, attempts=4, fruitless=4), "no answer")
    assert (run.attempts, run.fruitless, run.trouble) == (5, 5, "no answer")
    done = progressed(run, 10)
    assert (done.attempts, done.fruitless, done.trouble, done.rows_done) == (5, 0, "", 10)


def test_a_sign_of_life_changes_the_beat_alone() -> None:
    run = replace(RUN, lease=Lease("a", 1, 1))
    assert beaten(run) == replace(run, lease=Lease("a", 1, 2))


@given(total=st.integers(0, 5000), chunk=st.integers(1, 1000))
def test_chunks_hold_each_row_once_and_in_order(total: int, chunk: int) -> None:
    run = replace(RUN, rows_total=total, chunk_rows=chunk)
    rows = [row for number in range(1, run.chunk_count + 1) for row in run.rows_of(number)]
    assert rows == list(range(total))


def test_a_later_life_of_an_id_is_told_apart() -> None:
    later = replace(RUN, created=NOW + timedelta(milliseconds=1))
    assert later.life != RUN.life


@pytest.mark.parametrize("state", RunState)
@pytest.mark.parametrize("evaluation", [None, Evaluation(0.5, ("setosa", "rest"), (1, 1, 0, 0))])
def test_a_run_comes_back_from_its_body_as_it_was(
    state: RunState, evaluation: Evaluation | None
) -> None:
    run = replace(RUN, state=state, evaluation=evaluation, lease=Lease("a", 2, 3), ended=NOW)
    body = codec.from_json(codec.to_json(codec.check_body(run_body(run))))
    assert run_of("r1", body) == run
    assert (body["state"], body["model"]) == (state.value, "iris-setosa")


def test_a_body_of_a_later_version_is_read() -> None:
    assert run_of("r1", {**run_body(RUN), "colour": "red"}) == RUN


labels = st.lists(st.sampled_from(["setosa", "virginica", "rest", ""]), min_size=1, max_size=40)


@given(labels=labels, data=st.data(), first=st.integers(0, 2**40))
def test_a_chunk_comes_back_from_its_body_as_it_was(
    labels: list[str], data: st.DataObject, first: int
) -> None:
    probabilities = _probabilities(data, len(labels))
    body = chunk_body(Chunk(first, probabilities, tuple(labels)))
    chunk = chunk_of(codec.from_json(codec.to_json(codec.check_body(body))))
    assert chunk.first_row == first
    assert chunk.labels == tuple(labels)
    assert chunk.probabilities.tobytes() == probabilities.tobytes()
    assert [result.row for result in chunk.results()] == list(range(first, first + len(labels)))


def test_a_chunk_without_labels_answers_empty_ones() -> None:
    body = chunk_body(Chunk(7, np.array([0.25], np.float32), None))
    chunk = chunk_of(body)
    assert chunk.labels is None
    assert chunk.results() == [Result(7, 0.25, "")]
    assert Tally().plus(chunk, "setosa").evaluation("setosa") is None


@given(labels=labels, data=st.data(), cut=st.integers(0, 40))
def test_an_evaluation_is_the_same_however_the_rows_are_cut(
    labels: list[str], data: st.DataObject, cut: int
) -> None:
    probabilities = _probabilities(data, len(labels))
    whole = Tally().plus(Chunk(0, probabilities, tuple(labels)), "setosa")
    first = Chunk(0, probabilities[:cut], tuple(labels[:cut]))
    second = Chunk(cut, probabilities[cut:], tuple(labels[cut:]))
    assert Tally().plus(first, "setosa").plus(second, "setosa") == whole

    told = [value >= 0.5 for value in probabilities.tolist()]
    true = [label == "setosa" for label in labels]
    pairs = list(zip(true, told, strict=True))
    evaluation = whole.evaluation("setosa")
    assert evaluation is not None
    assert evaluation.accuracy == sum(a == b for a, b in pairs) / len(pairs)
    assert evaluation.labels == ("setosa", "rest")
    order = [(True, True), (True, False), (False, True), (False, False)]
    assert evaluation.confusion == tuple(pairs.count(each) for each in order)


def test_the_threshold_belongs_to_the_class() -> None:
    values = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(0))], np.float32)
    tally = Tally().plus(Chunk(0, values, ("setosa", "setosa")), "setosa")
    assert (tally.hits, tally.misses) == (1, 1)


def _probabilities(data: st.DataObject, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    value = st.floats(0, 1, width=32)
    return np.array(data.draw(st.lists(value, min_size=count, max_size=count)), np.float32)


FOUR = ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (ScoringData("d", 1, 1, 4, FOUR), [0, 1, 2, 3]),
        (ScoringData("d", 1, 1, 4), [0, 1, 2, 3]),
        (ScoringData("d", 1, 1, 4, ("a", "c", "b", "d")), [0, 2, 1, 3]),
        (ScoringData("d", 1, 1, 3), ("has 3 feature columns", "wants 4")),
        (ScoringData("d", 1, 1, 3, FOUR[:3]), ("no column is named 'd'", "expected the model's")),
        (ScoringData("d", 1, 1, 5, (*FOUR, "id")), ("no feature for: 'id'", "drop the columns")),
        (ScoringData("d", 1, 1, 4, ("A", *FOUR[1:])), ("no feature for: 'A'",)),
    ],
)
def test_columns_of_a_dataset_are_taken_by_name(
    data: ScoringData, wrong: tuple[str, ...] | list[int]
) -> None:
    model = ScoringModel(SPEC, 4, FOUR)
    if isinstance(wrong, list):
        assert list(fitting_columns(model, data)) == wrong
        return
    with pytest.raises(InvalidRequest) as caught:
        fitting_columns(model, data)
    assert caught.value.violations[0].field == "dataset"
    assert all(part in str(caught.value) for part in wrong)


def test_a_model_of_unknown_names_fits_by_count() -> None:
    fitting_columns(ScoringModel(SPEC, 4), ScoringData("d", 1, 1, 4, FOUR))


SERVING = Instance(InstancePhase.SERVING, address="here:1", digest=SPEC.digest)
USED = Deployment("run-r1", SPEC, (SERVING,), run="r1")


@pytest.mark.parametrize(
    ("deployment", "addresses", "reason"),
    [
        (USED, ["here:1"], ""),
        (
            replace(USED, instances=(replace(SERVING, phase=InstancePhase.REPLACING),)),
            ["here:1"],
            "",
        ),
        (replace(USED, instances=(replace(SERVING, phase=InstancePhase.BACKOFF),)), [], ""),
        (replace(USED, instances=(replace(SERVING, digest="cd" * 32),)), [], ""),
        (None, [], "is gone"),
        (replace(USED, run="r2"), [], "is gone"),
        (
            replace(
                USED, instances=(Instance(InstancePhase.FAILED, generation=1, reason="no memory"),)
            ),
            [],
            "failed: no memory",
        ),
        (
            replace(
                USED,
                instances=(
                    Instance(InstancePhase.BACKOFF, generation=1, failures=5, reason="it died"),
                ),
            ),
            [],
            "is not there: 5 attempts failed, the last one: it died",
        ),
        (
            replace(USED, spec=replace(SPEC, target=Target.ABSENT), instances=(Instance(),)),
            [],
            "did not want it any more",
        ),
        (
            replace(USED, spec=replace(SPEC, digest="cd" * 32), instances=(Instance(),)),
            [],
            "another version",
        ),
    ],
)
def test_what_a_deployment_means_for_its_run(
    deployment: Deployment | None, addresses: list[str], reason: str
) -> None:
    assert addresses_of(deployment, RUN) == addresses
    if not addresses:
        assert reason in why_hopeless(deployment, RUN)
        assert bool(why_hopeless(deployment, RUN)) == bool(reason)


def test_pauses_grow_up_to_the_longest() -> None:
    patience = Patience(first_pause_s=0.1, longest_pause_s=5.0)
    pauses = [patience.pause_s(fruitless) for fruitless in range(100)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.1, 5.0)
