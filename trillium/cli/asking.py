"""Rows in, scores out: what `trillium classify` and `trillium predict` do."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from trillium.cli.output import Form, opened, write_csv
from trillium.cli.rows import from_csv, from_words
from trillium.cli.show import Score, score_json
from trillium.client import Client

_ROWS_IN_ONE_CALL = 8192
"""Well below what servers allow, and enough to keep them busy."""
_STDIN = "-"


def read_rows(
    words: Sequence[str], csv: Path | None, feature_names: Callable[[], Sequence[str]]
) -> Iterator[list[float]]:
    """The rows that a command line means, read as they are asked for.

    Raises typer.BadParameter for what is no row, and OSError for the file.
    """
    try:
        if csv is not None and words:
            raise ValueError("give the features of one row or --csv, not both")
        if list(words) == [_STDIN] or csv == Path(_STDIN):
            yield from from_csv(sys.stdin, "standard input", feature_names)
        elif csv is not None:
            with csv.open(encoding="utf-8-sig", newline="") as lines:
                yield from from_csv(lines, str(csv), feature_names)
        elif words:
            yield from from_words(words)
        else:
            raise ValueError("give the features of one row, or --csv FILE, or - for standard input")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def score(
    client: Client, rows: Iterable[Sequence[float]], *, labels: bool, told: Callable[[int], None]
) -> Iterator[Score]:
    """Every class's probability of each row, and with `labels` its label.

    Rows are asked for some thousands at a time, and no more of them are held. `told` is called with
    the number of rows that each answer brought.
    """
    for some in _batched(rows):
        answers = _classified(client, some) if labels else _predicted(client, some)
        for row, (label, probabilities) in zip(some, answers, strict=True):
            yield Score(tuple(row), label=label, probabilities=probabilities)
        told(len(some))


def write(scores: Iterator[Score], form: Form, output: Path | None, *, labels: bool) -> None:
    """Write scores as CSV or JSON. The file is made when the first answer is there."""
    first = next(scores)
    every = chain([first], scores)
    with opened(output) as file:
        if form is Form.JSON:
            file.writelines(json.dumps(score_json(each)) + "\n" for each in every)
            return
        header = ["row", *(["label"] if labels else []), *_headings(first.probabilities)]
        write_csv(header, _records(every, labels=labels), file)


def _headings(labels: Iterable[str]) -> list[str]:
    return [f"probability_{label}" for label in labels]


def _records(scores: Iterable[Score], *, labels: bool) -> Iterator[list[object]]:
    for number, each in enumerate(scores):
        yield [number, *([each.label] if labels else []), *each.probabilities.values()]


def _batched(rows: Iterable[Sequence[float]]) -> Iterator[list[Sequence[float]]]:
    remaining = iter(rows)
    while some := list(islice(remaining, _ROWS_IN_ONE_CALL)):
        yield some


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
