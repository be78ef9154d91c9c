"""Rows to score are taken from files by name, and what may be a row is never taken for a header."""

from __future__ import annotations

import contextlib
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from trillium.cli.rows import RowsWanted, from_file, from_words, is_file
from trillium.errors import InvalidRequest
from trillium.tables.csv_sheet import CsvSheet
from trillium.tables.dialect import Dialect
from trillium.tables.numbers import number
from trillium.tables.scoring import header_of_model, rows_of
from trillium.tables.sheets import sentence


def from_csv(
    lines: Sequence[str] | Iterator[str],
    names: Sequence[str] = (),
    dialect: Dialect = Dialect(),  # noqa: B008 - it is frozen
    notes: list[str] | None = None,
    most: int = 2,
) -> list[list[float]]:
    """The rows of CSV lines for a model with these features."""
    try:
        sheet = CsvSheet(lines, dialect, is_header=header_of_model(lambda: names, dialect.decimal))
        said = [] if notes is None else notes
        blocks = list(rows_of(sheet, names, said.append, most=most))
    except InvalidRequest as error:
        raise ValueError(sentence(error)) from error
    return [row for block in blocks for row in block.tolist()]


def test_rows_of_csv_may_have_a_header_and_spaces() -> None:
    assert from_csv(["a, b", "1, 2", "", " 3 ,4e0"]) == [[1, 2], [3, 4]]


def test_csv_without_a_header_loses_no_row() -> None:
    assert from_csv(["1,2", "-3,.5"]) == [[1, 2], [-3, 0.5]]


@pytest.mark.parametrize(
    ("lines", "names", "rows"),
    [
        (["kind,b,a", "iris,1,2"], "ab", [[2, 1]]),
        ([" b , a ", "1,2"], "ab", [[2, 1]]),
        (["a,x,b,x", "1,2,3,4"], "ab", [[1, 3]]),
        (["0,1,2,3", "9,8,7,6"], "0123", [[9, 8, 7, 6]]),
        (["3,2,1,0", "9,8,7,6"], "0123", [[6, 7, 8, 9]]),
        (["4,0,1,2,3", "5,9,8,7,6"], "0123", [[9, 8, 7, 6]]),
        (["0,1,2,4", "9,8,7,6"], "0123", [[0, 1, 2, 4], [9, 8, 7, 6]]),
        (["1,2", "3,4"], "ab", [[1, 2], [3, 4]]),
    ],
)
def test_a_header_is_what_names_the_features_and_orders_the_columns(
    lines: list[str], names: str, rows: list[list[float]]
) -> None:
    assert from_csv(lines, list(names)) == rows


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "are missing; expected at least 1"),
        (["1,2", "3"], r"row 1 \(line 2\) has 1 values: expected 2"),
        (["1,2", "3,?"], r"row 1 \(line 2\), column 'b': expected a number, got '\?'"),
        (["1,2", "3,1e39"], "column 'b' is '1e39'; float32 holds 3.4e"),
        (["1,2", "3,inf"], "column 'b' is 'inf'; finite numbers only"),
        (["1,2", "3,5_1"], "column 'b': expected a number, got '5_1'"),
        (["kind,b,a", "1"], r"row 0 \(line 2\) has 1 values: expected 3"),
        (["a,b", "0,1,2"], r"row 0 \(line 2\) has 3 values: expected 2"),
        (["B,A", "2,1"], "line 1 is no header of the model: no column is named 'a', 'b': expected"),
        (["", "a,c", "2,1"], "line 2 is no header .* no column is named 'b'.* got 'a', 'c'"),
        (["a,b,b", "1,2,3"], "more than one column is named 'b'"),
        (["5.1,?", "2,1"], "got '5.1', '\\?'; correct the names, or leave the header out"),
        (["5.1,", "2,1"], "line 1 is no header"),
    ],
)
def test_what_is_wrong_with_csv_is_said_with_its_line(lines: list[str], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        from_csv(lines, ("a", "b"))


@pytest.mark.parametrize("first", ["b,b", "a,5.1", "a,", "5.1,?", ",5.1"])
def test_first_line_that_may_be_a_row_is_no_header_of_a_model_without_names(first: str) -> None:
    with pytest.raises(ValueError, match="line 1 is no header"):
        from_csv([first, "1,2"])


def test_numbers_of_unnamed_columns_are_no_row_of_a_model_with_names() -> None:
    for first in ("0,1", "1,0"):
        with pytest.raises(ValueError, match=f"line 1 is {first}: the numbers of columns"):
            from_csv([first, "2,3"], ("a", "b"))
    assert from_csv(["1,0", "2,3"], ("0", "1")) == [[3, 2]]
    assert from_csv(["0.0,1.0"], ("a", "b")) == [[0, 1]]


def test_what_the_first_line_is_may_be_said() -> None:
    for first in ("0,1", "1,0"):
        assert from_csv([first, "2,3"], ("a", "b"), Dialect(header=False))[1] == [2, 3]
    assert from_csv(["1,0", "2,3"], ("1", "0"), Dialect(header=True)) == [[2, 3]]
    with pytest.raises(ValueError, match="no column is named 'a', 'b'"):
        from_csv(["0,1", "2,3"], ("a", "b"), Dialect(header=True))


def test_columns_that_are_left_out_are_named() -> None:
    notes: list[str] = []
    from_csv(["kind,b,a,id", "x,1,2,7"], ("a", "b"), notes=notes)
    assert notes == ["columns left out, as the model has no such features: 'kind', 'id'"]
    notes.clear()
    from_csv(["b,a", "1,2"], ("a", "b"), notes=notes)
    assert notes == []


def test_names_may_have_other_signs_between_their_words() -> None:
    names = ("sepal_length_cm", "sepal_width_cm")
    assert from_csv(["sepal width (cm),sepal length (cm)", "2,1"], names) == [[1, 2]]
    with pytest.raises(ValueError, match="no column is named 'sepal_length_cm'"):
        from_csv(["sepal length (cm),sepal length: cm,sepal_width_cm", "1,2,3"], names)


def test_decimal_comma_is_read_where_it_is_said() -> None:
    dialect = Dialect(decimal=",")
    assert from_csv(["a;b", "5,1;-3,5e0"], ("a", "b"), dialect) == [
        [np.float32(5.1), np.float32(-3.5)]
    ]
    with pytest.raises(ValueError, match=r"expected a number, got '1\.000,5'"):
        from_csv(["a;b", "1.000,5;1"], ("a", "b"), dialect)


def test_decimal_comma_parts_no_cells() -> None:
    dialect = Dialect(decimal=",")
    assert from_csv(["a", "5,5", "4,25"], ("a",), dialect) == [[5.5], [4.25]]
    assert from_csv(["5,5", "4,25"], ("a",), dialect) == [[5.5], [4.25]]
    # One column, which the server refuses for a model of two features.
    assert from_csv(["5,5", "4,25"], ("a", "b"), dialect) == [[5.5], [4.25]]
    with pytest.raises(ValueError, match="no column is named 'a', 'b'"):
        from_csv(["a,b", "5,1"], ("a", "b"), dialect)


def test_rows_are_read_only_as_they_are_asked_for() -> None:
    def endless() -> Iterator[str]:
        yield from ["1,2", "3,4"]
        raise AssertionError("nobody has asked for this line")

    sheet = CsvSheet(endless(), is_header=header_of_model(tuple))
    rows = rows_of(sheet, (), lambda _: None, most=1)
    assert [next(rows).tolist(), next(rows).tolist()] == [[[1, 2]], [[3, 4]]]


def test_words_make_one_row() -> None:
    assert from_words(["1", "-2.5"]).tolist() == [[1, -2.5]]


@pytest.mark.parametrize("word", ["blue", "", " ", "5_1", "0x10", "1,5", "\u0665"])
def test_word_that_is_no_number_is_named(word: str) -> None:
    with pytest.raises(ValueError, match="feature 2: expected a number, got "):
        from_words(["1", word])


def test_word_that_float32_cannot_hold_is_named() -> None:
    with pytest.raises(ValueError, match="feature 2: 1e39 is too large"):
        from_words(["1", "1e39"])


@pytest.mark.parametrize(
    ("word", "expected"),
    [("-", True), ("a.csv", True), ("a.csv.gz", True), ("a.PARQUET", True), ("5.1", False)],
)
def test_word_with_the_end_of_a_file_name_is_a_file(word: str, expected: bool) -> None:
    assert is_file(word) is expected


TABLE = pa.table({"b": [2.0, 4.0], "kind": ["x", "y"], "a": pa.array([1, 3], pa.int8())})


def as_csv(path: Path) -> None:
    path.write_text("b,kind,a\n2.0,x,1\n4,y,3\n")


def as_gz(path: Path) -> None:
    path.write_bytes(gzip.compress(b"b,kind,a\n2.0,x,1\n4,y,3\n"))


def as_tsv(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbfb\tkind\ta\r\n2.0\tx\t1\r\n4\ty\t3\r\n")


def as_parquet(path: Path) -> None:
    parquet.write_table(TABLE, path)


def as_arrow(path: Path) -> None:
    with ipc.new_file(path, TABLE.schema) as writer:
        writer.write_table(TABLE)


def as_arrow_stream(path: Path) -> None:
    with ipc.new_stream(path, TABLE.schema) as writer:
        writer.write_table(TABLE)


def as_structured_npy(path: Path) -> None:
    rows = [(2, b"x", 1), (4, b"y", 3)]
    np.save(path, np.array(rows, [("b", "f8"), ("kind", "S1"), ("a", "i4")]))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.csv", as_csv),
        ("t.csv.gz", as_gz),
        ("t.tsv", as_tsv),
        ("t.parquet", as_parquet),
        ("t.arrow", as_arrow),
        ("t.feather", as_arrow_stream),
        ("t.npy", as_structured_npy),
    ],
)
def test_every_format_gives_the_same_rows(
    name: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    notes: list[str] = []
    wanted = RowsWanted(("a", "b"), most=1)
    blocks = list(from_file(path, lambda _: wanted, notes.append))
    assert [block.tolist() for block in blocks] == [[[1, 2]], [[3, 4]]]
    assert notes[-1].endswith("the model has no such features: 'kind'")


def test_matrix_is_taken_as_it_stands(tmp_path: Path) -> None:
    np.save(tmp_path / "m.npy", np.array([[True, False], [True, True]]))
    blocks = list(from_file(tmp_path / "m.npy", lambda _: RowsWanted(("a", "b")), print))
    assert blocks[0].tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.csv", b"", "t.csv: rows are missing; expected at least 1"),
        ("t.csv", b"a,b\n", "t.csv: rows are missing; expected at least 1"),
        ("t.csv", b"1,2\n3,x\n", "t.csv: row 1 .line 2., column 'b': expected a number, got 'x'"),
        ("t.csv", b"c,d\n1,2\n", "t.csv, line 1 is no header of the model"),
        ("t.csv.gz", b"\x1f\x8b\x08", "t.csv.gz: rows are not packed by gzip: "),
        ("t.parquet", b"PAR1", "t.parquet: rows are no Parquet: "),
        ("t.arrow", b"ARROW1", "t.arrow: rows are no Arrow: "),
        ("t.npy", b"\x93NUMPY", "t.npy: rows cannot be read: the header is none that NumPy"),
        ("t.xlsx", b"PK", "expected a file name that ends in .csv, .tsv, .parquet, .arrow"),
        ("t.npy.gz", b"\x1f\x8b", "expected a file name that ends in"),
    ],
)
def test_file_that_cannot_be_read_is_named(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        list(from_file(path, lambda _: RowsWanted(("a", "b")), print))


def test_column_that_is_no_number_is_refused_unless_it_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": [[1.0]], "b": [1.0]}), path)
    with pytest.raises(ValueError, match=r"'a' is a 'list<.*expected integers, floats"):
        list(from_file(path, lambda _: RowsWanted(("a", "b")), print))
    (rows,) = from_file(path, lambda _: RowsWanted(("b",)), print)
    assert rows.tolist() == [[1]]


VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9), st.permutations("abc"))
def test_csv_and_parquet_are_the_same_table(rows: list[tuple[Any, ...]], order: Any) -> None:
    columns = {"a": [row[0] for row in rows], "b": [row[1] for row in rows]}
    columns["c"] = [0.0] * len(rows)
    table = pa.table({name: columns[name] for name in order})
    file = io.BytesIO()
    parquet.write_table(table, file)
    lines = [",".join(order)]
    lines += [",".join(map(repr, row.values())) for row in table.to_pylist()]
    from trillium.tables.arrow_sheet import ArrowSheet

    (found,) = rows_of(ArrowSheet(file, is_parquet=True), ("a", "b"), lambda _: None, most=99)
    assert found.tolist() == from_csv(lines, ("a", "b")) == [list(row) for row in rows]


CELLS = st.text("0123456789.+-eE_ ", min_size=1, max_size=4).filter(str.strip)


@given(
    st.lists(CELLS | st.floats().map(repr), min_size=1, max_size=12),
    st.integers(1, 3),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(list(",;\t")),
)
def test_lines_of_numbers_mean_what_their_cells_mean(
    cells: list[str], width: int, end: str, delimiter: str
) -> None:
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    names, dialect = "abc"[:width], Dialect(delimiter=delimiter)
    lines = [delimiter.join(row) + end for row in [list(names), *rows]]
    expected = np.full((len(rows), width), np.nan, np.float32)
    with contextlib.suppress(ValueError), np.errstate(over="ignore"):
        expected = np.array(list(map(number, cells))).reshape(-1, width).astype(np.float32)
    if np.isfinite(expected).all():
        found = from_csv(lines, names, dialect, most=2)
        assert np.array(found, np.float32).tobytes() == expected.tobytes()
    else:
        with pytest.raises(ValueError, match=r"\S"):
            from_csv(lines, names, dialect, most=2)
