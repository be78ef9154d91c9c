"""What is counted of one class: how long its requests waited and took, and how often each was
sent."""

from __future__ import annotations

from collections import Counter
from typing import Literal, TypeAlias

from trillium.server.figures import ROWS, SECONDS, Distribution

from .batch import Batch
from .ticket import MOST_MOVES

Attempt: TypeAlias = Literal["first", "repeat", "hedge"]


class LaneFigures:
    """The figures of one class."""

    def __init__(self) -> None:
        self.queue = Distribution(SECONDS)
        """From a request's admission to its batch leaving; of its first attempt."""
        self.network = Distribution(SECONDS)
        """From there to the answer, less the predictor's own time; once for each request of a
        batch."""
        self.run = Distribution(SECONDS)
        """The predictor's own time; once for each request of a batch."""
        self.batch_rows = Distribution(ROWS)
        self.attempts: Counter[Attempt] = Counter()
        """How often requests were sent to a predictor."""
        self.rows_in_flight = 0
        """Rows that predictors have."""

    def left(self, batch: Batch, now: float) -> None:
        """A batch leaves for a predictor at that monotonic time."""
        firsts, add = 0, self.queue.add
        for part in batch.parts:
            if part.retried or part.moves:
                self.attempts["hedge" if part.moves >= MOST_MOVES else "repeat"] += 1
            else:
                firsts += 1
                add(now - part.ticket.started)
        self.attempts["first"] += firsts
        self.batch_rows.add(batch.block.row_count)
        self.rows_in_flight += batch.block.row_count

    def came_back(self, batch: Batch) -> None:
        """The predictor has a batch no more, however that came."""
        self.rows_in_flight -= batch.block.row_count

    def answered(self, batch: Batch, took_s: float, run_s: float) -> None:
        """A batch was answered after `took_s`, of which `run_s` are the predictor's own time."""
        run_s = min(run_s, took_s)
        self.network.add(took_s - run_s, len(batch.parts))
        self.run.add(run_s, len(batch.parts))
