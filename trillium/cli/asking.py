"""The scoring of `trillium classify` and `trillium predict`: rows in, scores out."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from trillium.cli.output import Form, Kept, opened, write_csv
from trillium.cli.rows import STDIN, RowsWanted, from_file, from_words, is_file
from trillium.cli.show import Score
from trillium.client import wire
from trillium.client.answers import Metadata
from trillium.client.sync import Client
from trillium.rows import Probabilities, Rows
from trillium.shortest import shortest
from trillium.tables.dialect import DEFAULT, Dialect


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Some rows with their scores."""

    rows: Rows
    class_labels: Sequence[str]
    probabilities: Probabilities
    """Shape [n, classes]."""
    labels: Sequence[str] | None
    """The most probable classes; None unless they were asked for."""

    def scores(self) -> Iterator[Score]:
        """Row by row."""
        for at, values in enumerate(shortest(self.probabilities).tolist()):
            pairs = zip(self.class_labels, values, strict=True)
            label = "" if self.labels is None else self.labels[at]
            yield Score(tuple(self.rows[at].tolist()), label=label, probabilities=dict(pairs))


def read_rows(
    words: Sequence[str],
    csv: Path | None,
    metadata: Callable[[], Metadata],
    note: Callable[[str], None],
    dialect: Dialect = DEFAULT,
) -> Iterator[Rows]:
    """The rows given on the command line or in a file, read lazily.

    Raises typer.BadParameter for an invalid row, and OSError for the file.
    """
    file = csv
    if file is None and len(words) == 1 and is_file(words[0]):
        file, words = Path(words[0]), ()

    def wanted(column_count: int) -> RowsWanted:
        known = metadata()
        most = wire.rows_in_a_call(known, known.feature_count or column_count)
        return RowsWanted(known.feature_names, most, known.takes_missing)

    try:
        if file is not None and words:
            raise ValueError("give the features of one row or a file, not both")
        if file is not None:
            yield from from_file(file, wanted, note, dialect=dialect)
        elif words:
            yield from_words(words)
        else:
            raise ValueError(
                f"give the features of one row, or a file, or {STDIN} for standard input"
            )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def score(
    client: Client,
    blocks: Iterator[Rows],
    *,
    labels: bool,
    progress: Callable[[int], None],
) -> Iterator[Scored]:
    """Every class's probability of each row, and with `labels` its label.

    Memory holds a few blocks at a time. `progress` is called with the row count of each. The rows
    before one that is invalid are scored first; then its typer.BadParameter is raised.
    """
    asked: deque[Rows] = deque()
    invalid: list[typer.BadParameter] = []

    def noted() -> Iterator[Rows]:
        try:
            for rows in blocks:
                asked.append(rows)
                yield rows
        except typer.BadParameter as error:
            invalid.append(error)

    answers: Iterator[Any] = (
        client.classify_stream(noted(), include_probabilities=True)
        if labels
        else client.predict_stream(noted())
    )
    for answer in answers:
        rows = asked.popleft()
        yield (
            Scored(rows, answer.class_labels, answer.class_probabilities, answer.labels.tolist())
            if labels
            else Scored(rows, answer.class_labels, answer.probabilities, None)
        )
        progress(len(rows))
    if invalid:
        raise invalid[0]


def after(blocks: Iterator[Rows], count: int) -> Iterator[Rows]:
    """The rows after the first `count`."""
    for rows in blocks:
        if count < len(rows):
            yield rows[count:] if count else rows
        count = max(0, count - len(rows))


def write(
    scored: Iterator[Scored], form: Form, output: Path | None, kept: Kept, *, labels: bool
) -> None:
    """Write scores as CSV, JSON or Parquet, after the rows that are `kept`.

    The file is created once the first score has arrived.
    """
    if form is Form.PARQUET:
        assert output is not None
        _write_parquet(scored, output)
        return
    first = next(scored, None)
    if first is None:
        return
    header = _header(first, labels=labels)
    kept.check(header)
    with opened(output, kept) as file:
        row = kept.row_count
        if form is Form.CSV and not row:
            write_csv([header], file)
        each: Scored | None = first
        while each is not None:
            if form is Form.JSON:
                file.writelines(json.dumps(_json(score)) + "\n" for score in each.scores())
            else:
                file.write(_lines(each, row))
            row += len(each.rows)
            each = next(scored, None)


def _header(scored: Scored, *, labels: bool) -> list[str]:
    headings = [f"probability_{label}" for label in scored.class_labels]
    return ["row", *(["label"] if labels else []), *headings]


def _lines(scored: Scored, row: int) -> str:
    """Lines of CSV. Only labels may need quotes, which are put around each of them once."""
    columns: list[Iterable[str]] = [map(str, range(row, row + len(scored.rows)))]
    if scored.labels is not None:
        quoted = {label: _quoted(label) for label in set(scored.labels)}
        columns.append(map(quoted.__getitem__, scored.labels))
    columns += [map(repr, column) for column in shortest(scored.probabilities).T.tolist()]
    return "".join(f"{line}\r\n" for line in map(",".join, zip(*columns, strict=True)))


def _quoted(label: str) -> str:
    file = io.StringIO()
    write_csv([[label]], file)
    return file.getvalue().removesuffix("\r\n")


def _json(score: Score) -> dict[str, Any]:
    from trillium.cli.show import score_json

    return score_json(score)


def _write_parquet(scored: Iterator[Scored], output: Path) -> None:
    """Write a row group for each block; the file takes its name once it is whole."""
    import pyarrow as pa
    from pyarrow import parquet

    part = output.with_name(f"{output.name}.part")
    writer = None
    row = 0
    try:
        for each in scored:
            numbers = np.arange(row, row + len(each.rows), dtype=np.int64)
            columns: dict[str, Any] = {"row": numbers}
            if each.labels is not None:
                columns["label"] = pa.array(each.labels).dictionary_encode()
            for at, label in enumerate(each.class_labels):
                columns[f"probability_{label}"] = each.probabilities[:, at]
            table = pa.table(columns)
            writer = writer or parquet.ParquetWriter(part, table.schema)
            writer.write_table(table)
            row += len(numbers)
        if writer is not None:
            writer.close()
            part.replace(output)
            writer = None
    finally:
        if writer is not None:
            writer.close()
            part.unlink(missing_ok=True)
