"""The life of a model is a table; everything outside of it is refused."""

from __future__ import annotations

from itertools import product

import pytest

from predictor.lifecycle import SERVING, TRANSITIONS, ModelStage, StageEvent, step
from trillium.errors import ModelBusy

LIFE = {
    (ModelStage.EMPTY, StageEvent.LOAD): ModelStage.LOADING,
    (ModelStage.LOADING, StageEvent.LOADED): ModelStage.READY,
    (ModelStage.LOADING, StageEvent.FAILED): ModelStage.EMPTY,
    (ModelStage.READY, StageEvent.LOAD): ModelStage.REPLACING,
    (ModelStage.REPLACING, StageEvent.LOADED): ModelStage.READY,
    (ModelStage.REPLACING, StageEvent.FAILED): ModelStage.READY,
    (ModelStage.READY, StageEvent.UNLOAD): ModelStage.UNLOADING,
    (ModelStage.UNLOADING, StageEvent.UNLOADED): ModelStage.EMPTY,
}


@pytest.mark.parametrize(("state", "event"), list(product(ModelStage, StageEvent)))
def test_event_leads_where_the_drawing_says_or_is_refused(
    state: ModelStage, event: StageEvent
) -> None:
    if (state, event) in LIFE:
        assert step(state, event) is LIFE[state, event]
    else:
        with pytest.raises(ModelBusy, match=f"cannot {event.value} .* {state.value}"):
            step(state, event)


def test_model_serves_exactly_when_it_is_loaded_and_nobody_asked_for_its_end() -> None:
    assert {ModelStage.READY, ModelStage.REPLACING} == SERVING


def test_every_state_can_be_reached_and_left() -> None:
    reached, frontier = set(), {ModelStage.EMPTY}
    while frontier:
        reached |= frontier
        following = {after for (before, _), after in TRANSITIONS.items() if before in reached}
        frontier = following - reached
    assert reached == set(ModelStage)
    assert {before for before, _ in TRANSITIONS} == set(ModelStage)


def test_only_a_load_or_unload_under_way_can_fail_or_end() -> None:
    for state in (ModelStage.EMPTY, ModelStage.READY):
        possible = {event for before, event in TRANSITIONS if before is state}
        assert possible <= {StageEvent.LOAD, StageEvent.UNLOAD}
