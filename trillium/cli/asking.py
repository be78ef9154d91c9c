"""Rows in, scores out: what `trillium classify` and `trillium predict` do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trillium.cli.rows import from_csv, from_words
from trillium.cli.show import Score
from trillium.client import Client

_ROWS_IN_ONE_CALL = 8192
"""Well below what servers allow, and enough to keep them busy."""
_STDIN = "-"


def read_rows(
    words: Sequence[str], csv: Path | None, feature_names: Callable[[], Sequence[str]]
) -> list[list[float]]:
    """The rows that a command line means; raises ValueError, and OSError for the file."""
    if csv is not None and words:
        raise ValueError("give the features of one row or --csv, not both")
    if list(words) == [_STDIN] or csv == Path(_STDIN):
        return from_csv(sys.stdin, "standard input", feature_names)
    if csv is not None:
        with csv.open(encoding="utf-8-sig", newline="") as lines:
            return from_csv(lines, str(csv), feature_names)
    if not words:
        raise ValueError("give the features of one row, or --csv FILE, or - for standard input")
    return from_words(words)


def score(client: Client, rows: Sequence[Sequence[float]], *, labels: bool) -> list[Score]:
    """Every class's probability of each row, and with `labels` its label."""
    scores: list[Score] = []
    for start in range(0, len(rows), _ROWS_IN_ONE_CALL):
        some = rows[start : start + _ROWS_IN_ONE_CALL]
        answers = _classified(client, some) if labels else _predicted(client, some)
        scores += [
            Score(tuple(row), label=label, probabilities=probabilities)
            for row, (label, probabilities) in zip(some, answers, strict=True)
        ]
    return scores


def _classified(
    client: Client, rows: Sequence[Sequence[float]]
) -> Iterator[tuple[str, dict[str, float]]]:
    answer = client.classify(rows, include_probabilities=True)
    assert answer.class_probabilities is not None
    return zip(
        answer.labels.tolist(),
        _by_label(answer.class_labels, answer.class_probabilities),
        strict=True,
    )


def _predicted(
    client: Client, rows: Sequence[Sequence[float]]
) -> Iterator[tuple[str, dict[str, float]]]:
    answer = client.predict(rows)
    for probabilities in _by_label(answer.class_labels, answer.probabilities):
        yield "", probabilities


def _by_label(
    labels: Sequence[str], probabilities: NDArray[np.float32]
) -> Iterator[dict[str, float]]:
    for row in probabilities:
        # The shortest text that means this float32, not the double next to it.
        yield {label: float(str(value)) for label, value in zip(labels, row, strict=True)}
