"""A run as it is kept: what was ordered, how far it is, and who works on it. Pure values.

Everything that must hold together stands in this one document, so that one compare-and-set keeps it
together; in particular, the write that makes a run SUCCEEDED is the one that accepts its result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum


class RunState(Enum):
    """The state of a run; `FOLLOWS` has the transitions."""

    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    COLLECTING = "collecting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed-out"


_BAD_ENDS = frozenset({RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT})

FOLLOWS: Mapping[RunState, frozenset[RunState]] = {
    RunState.QUEUED: _BAD_ENDS | {RunState.PREPARING},
    RunState.PREPARING: _BAD_ENDS | {RunState.RUNNING},
    RunState.RUNNING: _BAD_ENDS | {RunState.COLLECTING},
    RunState.COLLECTING: _BAD_ENDS | {RunState.SUCCEEDED},
    RunState.SUCCEEDED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
    RunState.TIMED_OUT: frozenset(),
}
"""The whole table: a step that is not in it is invalid. It has no way back, so what a reader has
seen of a run stays true."""

LIVE = tuple(state for state in RunState if FOLLOWS[state])
"""States that something follows; a run in any other has ended."""


class InvalidStep(Exception):
    """A step that is not in the table: a defect of whoever took it."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the caller asked, as he asked it: the same order again is the same run."""

    model: str
    model_version: int
    """0 means the newest or, on a deployment, the one that it serves."""
    dataset: str
    dataset_version: int
    """0 means the newest."""
    deployment: str
    """Id of the deployment whose predictors are used; empty for predictors of its own."""
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Lease:
    """Who works on a run. It saves double work; what makes double work harmless is that every write
    names the revision that it follows."""

    holder: str = ""
    """Made up by each executor when it starts; empty before the first one took the run."""
    epoch: int = 0
    """Grows when the run is taken."""
    beat: int = 0
    """Grows while the holder lives. It is only ever compared with itself."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well a model did: the class against all others, predicted from probability 0.5 on."""

    accuracy: float
    labels: tuple[str, ...]
    """The class, then "rest"."""
    confusion: tuple[int, ...]
    """Rows by true label (outer) and predicted label (inner), in the order of `labels`."""


@dataclass(frozen=True, slots=True)
class Run:
    """The document."""

    id: str
    order: Order
    model: str
    model_version: int
    digest: str
    """SHA-256 of the artifact: only answers of this very model are results."""
    class_label: str
    dataset: str
    dataset_version: int
    labelled: bool
    deployment: str
    """Id of the deployment whose predictors are used, also if it is the run's own."""
    temporary: bool
    """Whether that deployment is its own and ends with it."""
    rows_total: int
    chunk_rows: int
    """Rows of one chunk of results; of the last one, at most."""
    created: datetime
    deadline: datetime
    """It is ended when it has not ended by itself by then."""
    expires: datetime
    """From then on the store may drop the run and its results."""
    state: RunState = RunState.QUEUED
    rows_done: int = 0
    """Rows whose results are stored: whole chunks, from the first one on."""
    attempts: int = 0
    """Times that its work was begun, at first or again."""
    fruitless: int = 0
    """Attempts since a chunk was last stored."""
    trouble: str = ""
    """Why the attempt before ended."""
    detail: str = ""
    """Why it did not succeed, or why one that did has no evaluation of a labelled dataset."""
    evaluation: Evaluation | None = None
    ended: datetime | None = None
    lease: Lease = field(default_factory=Lease)

    @property
    def has_ended(self) -> bool:
        """Whether nothing follows any more."""
        return not FOLLOWS[self.state]

    @property
    def chunk_count(self) -> int:
        """Chunks that its results have."""
        return -(-self.rows_total // self.chunk_rows)

    @property
    def life(self) -> str:
        """Distinguishes this run from an expired one that had its id before."""
        return f"{self.id}.{self.created:%Y%m%dT%H%M%S%f}"

    def rows_of(self, number: int) -> range:
        """The rows of the chunk of that number, 1 and up."""
        first = (number - 1) * self.chunk_rows
        return range(first, min(first + self.chunk_rows, self.rows_total))


def moved(
    run: Run,
    state: RunState,
    now: datetime,
    *,
    detail: str = "",
    evaluation: Evaluation | None = None,
) -> Run:
    """The run one step further. Raises InvalidStep for a step that is not in the table."""
    if state not in FOLLOWS[run.state]:
        raise InvalidStep(f"run {run.id!r} cannot go from {run.state.value} to {state.value}")
    after = replace(run, state=state, detail=detail, evaluation=evaluation)
    return replace(after, ended=now) if after.has_ended else after


def taken(run: Run, holder: str, now: datetime) -> Run:
    """The run in the hands of `holder`, who begins an attempt. Raises InvalidStep if it ended."""
    if run.has_ended:
        raise InvalidStep(f"run {run.id!r} has {run.state.value}; nobody works on it any more")
    begun = moved(run, RunState.PREPARING, now) if run.state is RunState.QUEUED else run
    return replace(
        begun,
        lease=Lease(holder, run.lease.epoch + 1, run.lease.beat + 1),
        attempts=run.attempts + 1,
        fruitless=run.fruitless + 1,
    )


def tried_again(run: Run, trouble: str) -> Run:
    """The run with another attempt begun, after one that ended with `trouble`."""
    return replace(run, attempts=run.attempts + 1, fruitless=run.fruitless + 1, trouble=trouble)


def progressed(run: Run, rows_done: int) -> Run:
    """The run with the results of that many rows stored."""
    return replace(run, rows_done=rows_done, fruitless=0, trouble="")


def beaten(run: Run) -> Run:
    """The run with a sign of life of its holder."""
    return replace(run, lease=replace(run.lease, beat=run.lease.beat + 1))
