"""The life of the model inside a predictor, as a table: what is not in it is refused.

          ┌── failed ──┐
          ▼            │
EMPTY ─ load ─▶ LOADING ─ loaded ─▶ READY ─ unload ─▶ UNLOADING ─ unloaded ─▶ EMPTY
                                    ▲  │
                      loaded, failed│  │load
                                    │  ▼
                                  REPLACING
"""

from __future__ import annotations

from enum import Enum

from trillium.errors import ModelBusy


class State(Enum):
    """Where the model is in its life."""

    EMPTY = "empty"
    LOADING = "loading"
    READY = "ready"
    REPLACING = "replacing"
    """Serving the old model while the new one is read and warmed up."""
    UNLOADING = "unloading"


class Event(Enum):
    """What happens to the model."""

    LOAD = "load"
    LOADED = "loaded"
    FAILED = "failed"
    UNLOAD = "unload"
    UNLOADED = "unloaded"


SERVING = frozenset({State.READY, State.REPLACING})
"""States in which rows are scored."""

TRANSITIONS = {
    (State.EMPTY, Event.LOAD): State.LOADING,
    (State.LOADING, Event.LOADED): State.READY,
    (State.LOADING, Event.FAILED): State.EMPTY,
    (State.READY, Event.LOAD): State.REPLACING,
    (State.REPLACING, Event.LOADED): State.READY,
    (State.REPLACING, Event.FAILED): State.READY,
    (State.READY, Event.UNLOAD): State.UNLOADING,
    (State.UNLOADING, Event.UNLOADED): State.EMPTY,
}


def step(state: State, event: Event) -> State:
    """The state after `event`; raises ModelBusy when it cannot happen in `state`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ModelBusy(f"cannot {event.value} while the model is {state.value}") from None
