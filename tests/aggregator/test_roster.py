"""What is known of the predictors, and what follows for the ensemble."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.plans.agreement import misfit, most_common
from aggregator.plans.roster import Endpoint, LinkState, Roster, RosterEntry
from trillium.clock import SystemClock
from trillium.model.description import ModelDescription

A, B, C = (Endpoint(label, f"host:{port}") for port, label in enumerate("abc", 1))
A2 = Endpoint("a", "host:9")


class FakeClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def monotonic(self) -> float:
        return self.passed_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.passed_s)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def roster(clock: FakeClock) -> Roster:
    return Roster((A, B, C), clock=clock)


def model(label: str, **facts: object) -> ModelDescription:
    given = {"digest": "d", "feature_count": 4, "ensemble": "iris", **facts}
    return ModelDescription(class_label=label, **given)  # type: ignore[arg-type]


def entry(roster: Roster, endpoint: Endpoint) -> RosterEntry:
    return next(each for each in roster.entries if each.endpoint == endpoint)


def test_nothing_is_known_before_the_first_contact(roster: Roster) -> None:
    assert roster.metadata is None
    assert {each.state for each in roster.entries} == {LinkState.CONNECTING}
    assert not roster.all_ready()


def test_classes_keep_the_order_in_which_they_were_first_named(clock: FakeClock) -> None:
    roster = Roster((B, A, C, A2), clock=clock)
    assert roster.class_labels == ("b", "a", "c")
    assert [each.endpoint for each in roster.entries] == [B, A, A2, C]


def test_an_ensemble_of_no_known_class_is_not_ready(clock: FakeClock) -> None:
    assert not Roster((), clock=clock, follows=True).all_ready()


def test_all_ready_needs_one_predictor_of_every_class(clock: FakeClock) -> None:
    roster = Roster((A, A2, B), clock=clock)
    roster.reached(A2, model("a"))
    assert not roster.all_ready()
    roster.reached(B, model("b"))
    assert roster.all_ready()
    roster.lost(A, "gone")
    assert roster.all_ready()
    roster.lost(A2, "gone")
    assert not roster.all_ready()


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (model("b"), "its model recognizes 'b', not 'c'"),
        (model("c", ensemble="wine"), "its model is of ensemble 'wine', not 'iris'"),
        (model("c", feature_count=5), "its model takes 5 features, not 4"),
        (
            model("c", feature_names=tuple("xyzw")),
            "its model has features of other names or in another order",
        ),
    ],
    ids=["class", "ensemble", "feature count", "feature names"],
)
def test_a_model_that_does_not_fit_is_not_asked_and_the_reason_is_said(
    roster: Roster, odd: ModelDescription, reason: str
) -> None:
    roster.reached(A, model("a", feature_names=tuple("wxyz")))
    roster.reached(B, model("b", feature_names=tuple("wxyz")))
    roster.reached(C, odd)
    assert entry(roster, C).state is LinkState.MISMATCHED
    assert entry(roster, C).detail == reason
    assert not roster.is_ready(C)
    assert roster.is_ready(A)
    assert not roster.has_hope("c")
    assert roster.why_not("c") == reason


def test_what_a_model_does_not_say_fits_everything(roster: Roster) -> None:
    roster.reached(A, model("a", ensemble="", feature_names=()))
    roster.reached(B, model("b", feature_names=tuple("wxyz")))
    roster.reached(C, model("c", ensemble=""))
    assert roster.all_ready()
    assert roster.metadata is not None
    assert roster.metadata.ensemble == "iris"
    assert roster.metadata.feature_names == tuple("wxyz")


def test_the_majority_wins_even_over_who_came_first(roster: Roster) -> None:
    roster.reached(A, model("a", feature_count=5))
    assert roster.is_ready(A)
    roster.reached(B, model("b"))
    roster.reached(C, model("c"))
    assert [each.state for each in roster.entries] == [
        LinkState.MISMATCHED,
        LinkState.READY,
        LinkState.READY,
    ]
    assert roster.metadata is not None
    assert roster.metadata.feature_count == 4


def test_of_two_equal_parties_the_first_in_order_wins(roster: Roster) -> None:
    roster.reached(B, model("b", feature_count=5))
    roster.reached(A, model("a"))
    assert [each.state for each in roster.entries[:2]] == [LinkState.READY, LinkState.MISMATCHED]


def test_a_misfit_fits_again_when_the_majority_changes(roster: Roster) -> None:
    roster.reached(A, model("a"))
    roster.reached(B, model("b", feature_count=5))
    assert entry(roster, B).state is LinkState.MISMATCHED
    roster.reached(C, model("c", feature_count=5))
    assert [each.state for each in roster.entries] == [
        LinkState.MISMATCHED,
        LinkState.READY,
        LinkState.READY,
    ]
    roster.reached(A, model("a", feature_count=5, digest="new"))
    assert roster.all_ready()


def test_a_configured_ensemble_is_stronger_than_any_majority(clock: FakeClock) -> None:
    roster = Roster((A, B, C), clock=clock, ensemble="wine")
    for endpoint in (A, B):
        roster.reached(endpoint, model(endpoint.class_label))
    roster.reached(C, model("c", ensemble="wine"))
    states = [each.state for each in roster.entries]
    assert states == [LinkState.MISMATCHED, LinkState.MISMATCHED, LinkState.READY]


def test_metadata_is_kept_when_all_are_lost(roster: Roster) -> None:
    roster.reached(A, model("a", sample=(1.0, 2.0, 3.0, 4.0)))
    known = roster.metadata
    roster.lost(A, "gone")
    assert roster.metadata is known
    assert known is not None
    assert known.sample == (1.0, 2.0, 3.0, 4.0)
    assert entry(roster, A).described == model("a", sample=(1.0, 2.0, 3.0, 4.0))


def test_the_sample_is_that_of_a_model_that_fits(roster: Roster) -> None:
    roster.reached(A, model("a", ensemble="other", sample=(9.0, 9.0, 9.0, 9.0)))
    roster.reached(B, model("b", sample=(1.0, 2.0, 3.0, 4.0)))
    roster.reached(C, model("c"))
    assert entry(roster, A).state is LinkState.MISMATCHED
    assert roster.metadata is not None
    assert roster.metadata.sample == (1.0, 2.0, 3.0, 4.0)


def test_the_time_of_a_state_moves_only_when_the_state_does(
    roster: Roster, clock: FakeClock
) -> None:
    start = clock.now()
    clock.passed_s = 1
    roster.lost(A, "connection refused")
    lost = clock.now()
    assert entry(roster, A).since == lost
    clock.passed_s = 2
    roster.lost(A, "timed out")
    assert entry(roster, A).since == lost
    assert entry(roster, A).detail == "timed out"
    clock.passed_s = 3
    roster.reached(A, model("a"))
    clock.passed_s = 4
    roster.reached(A, model("a", digest="e"))
    roster.reached(B, model("b"))
    assert entry(roster, A).since == start + timedelta(seconds=3)
    assert entry(roster, B).since == start + timedelta(seconds=4)
    assert entry(roster, C).since == start


def test_a_class_has_hope_while_one_of_its_predictors_is_ready_or_being_reached(
    clock: FakeClock,
) -> None:
    roster = Roster((A, A2), clock=clock)
    assert roster.has_hope("a")
    roster.lost(A, "refused")
    assert roster.has_hope("a")
    roster.lost(A2, "timed out")
    assert not roster.has_hope("a")
    assert roster.why_not("a") == "refused; timed out"
    assert roster.addresses("a") == "host:1, host:9"
    roster.connecting(A, "its model was replaced")
    assert roster.has_hope("a")


def test_the_same_trouble_of_two_predictors_is_said_once(clock: FakeClock) -> None:
    roster = Roster((A, A2), clock=clock)
    roster.lost(A, "refused")
    roster.lost(A2, "refused")
    assert roster.why_not("a") == "refused"


def test_listeners_hear_of_changes_and_of_nothing_else(clock: FakeClock) -> None:
    heard: list[bool] = []
    known = Roster((A,), clock=clock, on_change=lambda: heard.append(known.all_ready()))
    known.reached(A, model("a"))
    known.reached(A, model("a"))
    assert known.lost(A, "gone")
    assert not known.lost(A, "gone")
    assert heard == [True, False]


@pytest.mark.parametrize(
    ("values", "answer"),
    [([], None), (["", ""], None), (["x", "y", "y"], "y"), (["x", "y"], "x"), (["", "", "x"], "x")],
)
def test_most_common(values: list[str], answer: str | None) -> None:
    assert most_common(values) == answer


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reached", "lost", "connecting"]),
        st.integers(0, 3),
        st.sampled_from([3, 3, 4]),
        st.sampled_from(["", "e", "e", "f"]),
        st.sampled_from([(), (), ("a", "b", "c")]),
        st.sampled_from([(), (), (1.0, 2.0, 3.0)]),
    ),
    min_size=4,
    max_size=24,
)


@settings(max_examples=500)
@given(steps=STEPS)
def test_a_contact_that_confirms_what_is_known_leaves_what_judging_everybody_would(
    steps: list[tuple[str, int, int, str, tuple[str, ...], tuple[float, ...]]],
) -> None:
    endpoints = [Endpoint(label, f"{label}:{number}") for label in "ab" for number in (1, 2)]
    quick, thorough = (Roster(endpoints, clock=SystemClock()) for _ in range(2))
    for action, index, count, ensemble, names, sample in steps:
        endpoint = endpoints[index]
        facts = {"feature_count": count, "ensemble": ensemble, "feature_names": names}
        described = model(endpoint.class_label, **facts, sample=sample)
        thorough._votes_left = True  # So that it judges everybody.
        for roster in (quick, thorough):
            match action:
                case "reached":
                    roster.reached(endpoint, described)
                case "lost":
                    roster.lost(endpoint, "gone")
                case _:
                    roster.connecting(endpoint, "again")
        assert quick.metadata == thorough.metadata
        assert [(each.state, each.detail) for each in quick.entries] == [
            (each.state, each.detail) for each in thorough.entries
        ]
        assert [quick.has_hope(label) for label in "ab"] == [
            thorough.has_hope(label) for label in "ab"
        ]


def test_a_start_judges_each_predictor_once_or_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    judged = 0

    def counting(*arguments: Any) -> str:
        nonlocal judged
        judged += 1
        return misfit(*arguments)

    monkeypatch.setattr("aggregator.plans.roster.misfit", counting)
    endpoints = [Endpoint(f"class {number}", f"h:{number}") for number in range(500)]
    roster = Roster(endpoints, clock=SystemClock())
    for endpoint in endpoints:
        roster.reached(endpoint, model(endpoint.class_label))
    assert roster.all_ready()
    assert judged <= 2 * len(endpoints)


def test_votes_are_counted_anew_after_some_were_lost(clock: FakeClock) -> None:
    b2 = Endpoint("b", "host:8")
    roster = Roster((A, A2, B, b2), clock=clock)
    for endpoint in (A, A2, B, b2):
        count = 3 if endpoint.class_label == "a" else 4
        roster.reached(endpoint, model(endpoint.class_label, feature_count=count))
    assert roster.metadata is not None
    assert roster.metadata.feature_count == 3
    for endpoint in (A, A2):
        roster.lost(endpoint, "gone")
    roster.reached(A, model("a", feature_count=3))
    assert roster.metadata.feature_count == 4
    assert entry(roster, A).state is LinkState.MISMATCHED
