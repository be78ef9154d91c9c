"""The results of a run: chunks of probabilities, as stored, and the model's evaluation.

Pure. A chunk holds the true labels too, so results need no dataset to be read or evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trillium.rows import WIRE_DTYPE, Probabilities

from ..store.port import Body
from .run import Evaluation

THRESHOLD = 0.5
"""From this probability on, a row counts as the class."""
REST = "rest"
_INDEX_DTYPE = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class Result:
    """The score of one row."""

    row: int
    """Number of the row in the dataset, from 0."""
    probability: float
    label: str
    """True class of the row; empty if the dataset is not labelled."""


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """The scores of some rows that follow one another."""

    first_row: int
    probabilities: Probabilities
    """float32 [n]."""
    labels: tuple[str, ...] | None
    """True class of each row; None if the dataset is not labelled."""

    @property
    def rows(self) -> range:
        """The rows that it covers."""
        return range(self.first_row, self.first_row + len(self.probabilities))

    def results(self) -> list[Result]:
        """Row by row."""
        labels = self.labels or ("",) * len(self.probabilities)
        values = self.probabilities.tolist()
        return [Result(*each) for each in zip(self.rows, values, labels, strict=True)]


def chunk_body(chunk: Chunk) -> Body:
    """The body of a chunk's entry: equal for equal chunks."""
    body: dict[str, object] = {
        "first_row": chunk.first_row,
        "probabilities": chunk.probabilities.astype(WIRE_DTYPE).tobytes(),
    }
    if chunk.labels is not None:
        names = sorted(set(chunk.labels))
        places = {name: place for place, name in enumerate(names)}
        indexes = np.array([places[label] for label in chunk.labels], _INDEX_DTYPE)
        body |= {"labels": names, "label_indexes": indexes.tobytes()}
    return body


def chunk_of(body: Body) -> Chunk:
    """The chunk that `chunk_body` made `body` of."""
    probabilities = np.frombuffer(body["probabilities"], WIRE_DTYPE)
    labels = None
    if "labels" in body:
        names = body["labels"]
        indexes = np.frombuffer(body["label_indexes"], _INDEX_DTYPE)
        labels = tuple(names[index] for index in indexes.tolist())
    return Chunk(body["first_row"], probabilities, labels)


@dataclass(frozen=True, slots=True)
class Tally:
    """Labeled rows, counted by true and predicted label; added up chunk by chunk."""

    hits: int = 0
    """Of the class, and predicted so."""
    misses: int = 0
    """Of the class, and predicted as the rest."""
    alarms: int = 0
    """Of the rest, and predicted as the class."""
    rejections: int = 0
    """Of the rest, and predicted so."""

    def plus(self, chunk: Chunk, class_label: str) -> Tally:
        """The tally with the rows of `chunk`; an unlabelled one adds nothing."""
        if chunk.labels is None:
            return self
        true = np.array([label == class_label for label in chunk.labels], bool)
        told = chunk.probabilities >= THRESHOLD
        return Tally(
            self.hits + int(np.sum(true & told)),
            self.misses + int(np.sum(true & ~told)),
            self.alarms + int(np.sum(~true & told)),
            self.rejections + int(np.sum(~true & ~told)),
        )

    def evaluation(self, class_label: str) -> Evaluation | None:
        """The evaluation by the tally; None if no row was counted."""
        confusion = (self.hits, self.misses, self.alarms, self.rejections)
        count = sum(confusion)
        if not count:
            return None
        accuracy = (self.hits + self.rejections) / count
        return Evaluation(accuracy, (class_label, REST), confusion)
