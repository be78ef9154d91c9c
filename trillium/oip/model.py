"""What a server has to provide: the port that aggregator and predictor implement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from trillium.rows import Block, Probabilities
from trillium.rpc.call import Call
from trillium.server.statistics import Statistics

VERSION = "1"
"""The version of a model whose server has no revisions."""
INPUT = "input"
PROBABILITIES = "probabilities"
LABEL = "label"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that returns the probabilities of its classes."""

    name: str
    platform: str
    feature_count: int
    class_labels: tuple[str, ...]
    """The columns of its probabilities."""
    max_rows: int
    """Most rows in one request."""
    names_labels: bool
    """Whether it returns each row's most probable class, too."""
    takes_missing: bool = False
    """Whether a value of a row may be missing, which is NaN."""
    version: str = VERSION
    versions: tuple[str, ...] = (VERSION,)
    """All that can be asked for by number."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of all its outputs, in order."""
        return (PROBABILITIES, LABEL) if self.names_labels else (PROBABILITIES,)


class ModelState(Enum):
    """Whether a model can be used, in the protocol's terms."""

    READY = "READY"
    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of the server, in whatever state."""

    name: str
    state: ModelState
    reason: str = ""
    """Why it cannot be used; empty if it can."""


class Models(Protocol):
    """The models of one server. No method but `score`, `load` and `unload` waits."""

    def find(
        self, name: str, version: int | None = None, sticky_key: str | None = None
    ) -> ServedModel:
        """The model of that name, and that version of it if there is one; without a version the one
        that a request gets whose sticky key that is, None meaning the usual one. Raises
        ModelNotFound, and NoMetadata while nothing is known."""
        ...

    def served(self) -> Sequence[ServedModel]:
        """Every model that `find` finds; none while nothing is known."""
        ...

    def is_ready(self, name: str, version: int | None = None) -> bool:
        """Whether that model can be used now; one of an unknown name or version cannot."""
        ...

    def listed(self) -> Sequence[Listed]:
        """Every model of the server, including those that could be loaded."""
        ...

    def statistics(self, model: ServedModel) -> Statistics:
        """The statistics of the model."""
        ...

    async def score(
        self, model: ServedModel, block: Block, call: Call, timeout_s: float | None
    ) -> Probabilities:
        """The probability of each class for each row, [n, classes], each in [0, 1].

        The call's deadline and `timeout_s` both hold. Raises what the server's own API raises.
        """
        ...

    async def load(self, name: str) -> None:
        """Load the model of that name; raises Unsupported, ModelNotFound, ModelRejected,
        ModelBusy."""
        ...

    async def unload(self, name: str) -> None:
        """Unload the model of that name; raises Unsupported, ModelNotFound, ModelBusy."""
        ...
