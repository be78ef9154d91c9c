"""The life of a model is a table; everything outside of it is refused."""

from __future__ import annotations

from itertools import product

import pytest

from predictor.lifecycle import SERVING, TRANSITIONS, Event, State, step
from trillium.errors import ModelBusy

LIFE = {
    (State.EMPTY, Event.LOAD): State.LOADING,
    (State.LOADING, Event.LOADED): State.READY,
    (State.LOADING, Event.FAILED): State.EMPTY,
    (State.READY, Event.LOAD): State.REPLACING,
    (State.REPLACING, Event.LOADED): State.READY,
    (State.REPLACING, Event.FAILED): State.READY,
    (State.READY, Event.UNLOAD): State.UNLOADING,
    (State.UNLOADING, Event.UNLOADED): State.EMPTY,
}


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)))
def test_event_leads_where_the_drawing_says_or_is_refused(state: State, event: Event) -> None:
    if (state, event) in LIFE:
        assert step(state, event) is LIFE[state, event]
    else:
        with pytest.raises(ModelBusy, match=f"cannot {event.value} .* {state.value}"):
            step(state, event)


def test_model_serves_exactly_when_it_is_loaded_and_nobody_asked_for_its_end() -> None:
    assert {State.READY, State.REPLACING} == SERVING


def test_every_state_can_be_reached_and_left() -> None:
    reached, frontier = set(), {State.EMPTY}
    while frontier:
        reached |= frontier
        following = {after for (before, _), after in TRANSITIONS.items() if before in reached}
        frontier = following - reached
    assert reached == set(State)
    assert {before for before, _ in TRANSITIONS} == set(State)


def test_only_a_load_or_unload_under_way_can_fail_or_end() -> None:
    for state in (State.EMPTY, State.READY):
        possible = {event for before, event in TRANSITIONS if before is state}
        assert possible <= {Event.LOAD, Event.UNLOAD}
