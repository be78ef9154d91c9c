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


class ModelStage(Enum):
    """The state of the model."""

    EMPTY = "empty"
    LOADING = "loading"
    READY = "ready"
    REPLACING = "replacing"
    """Serving the old model while the new one is read and warmed up."""
    UNLOADING = "unloading"


class StageEvent(Enum):
    """What happens to the model."""

    LOAD = "load"
    LOADED = "loaded"
    FAILED = "failed"
    UNLOAD = "unload"
    UNLOADED = "unloaded"


SERVING = frozenset({ModelStage.READY, ModelStage.REPLACING})
"""States in which rows are scored."""

TRANSITIONS = {
    (ModelStage.EMPTY, StageEvent.LOAD): ModelStage.LOADING,
    (ModelStage.LOADING, StageEvent.LOADED): ModelStage.READY,
    (ModelStage.LOADING, StageEvent.FAILED): ModelStage.EMPTY,
    (ModelStage.READY, StageEvent.LOAD): ModelStage.REPLACING,
    (ModelStage.REPLACING, StageEvent.LOADED): ModelStage.READY,
    (ModelStage.REPLACING, StageEvent.FAILED): ModelStage.READY,
    (ModelStage.READY, StageEvent.UNLOAD): ModelStage.UNLOADING,
    (ModelStage.UNLOADING, StageEvent.UNLOADED): ModelStage.EMPTY,
}


def step(state: ModelStage, event: StageEvent) -> ModelStage:
    """The state after `event`; raises ModelBusy when it cannot happen in `state`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ModelBusy(f"cannot {event.value} while the model is {state.value}") from None
