"""What a dataset's file holds, and what is said of a file that will not do."""

from __future__ import annotations

import csv
import io
import json
import re
import struct
import sys
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pyarrow import parquet

from controller.catalog.datasets import Dataset, Format, Layout, TableLimits, format_of, parse
from trillium.errors import InvalidRequest, Violation
from trillium.rpc.status import to_status
from trillium.tables.dialect import Dialect
from trillium.tables.gathering import Choice
from trillium.tables.numbers import are_numbers

IRIS = resources.files("controller.catalog").joinpath("data", "iris.csv").read_bytes()
SMALL = TableLimits(max_rows=3, max_columns=4, max_values=9)
NAN, INFINITY = float("nan"), float("inf")


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def packed(**columns: Any) -> bytes:
    """A Parquet file of these columns."""
    return packed_table(pa.table(columns))


def packed_table(table: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def refused(content: bytes, format: Format | None = None, **limits: int) -> dict[str, str]:
    """The violations of a file that must be refused, description by field."""
    with pytest.raises(InvalidRequest) as caught:
        parse(content, format, TableLimits(**limits))
    return {each.field: each.description for each in caught.value.violations}


def test_iris_ships_with_its_labels() -> None:
    iris = parse(IRIS)
    assert iris.rows.shape == (150, 4)
    assert iris.rows.dtype == np.dtype("<f4")
    assert iris.rows[0].tolist() == np.array([5.1, 3.5, 1.4, 0.2], "f4").tolist()
    assert iris.feature_names == (
        "sepal_length_cm",
        "sepal_width_cm",
        "petal_length_cm",
        "petal_width_cm",
    )
    assert iris.labels == ("setosa",) * 50 + ("versicolor",) * 50 + ("virginica",) * 50
    assert iris.format is Format.CSV


def is_read(dataset: Dataset, rows: object, labels: object) -> None:
    assert dataset.rows.tolist() == rows
    assert dataset.labels == labels


def test_csv_is_read_as_people_and_spreadsheets_write_it() -> None:
    is_read(parse(b"a,b\n1,2\n"), [[1, 2]], None)
    is_read(parse(b"a,b\r\n1,2\r\n3,-4e1"), [[1, 2], [3, -40]], None)
    is_read(parse(b"\xef\xbb\xbfa,label\n1,x\n"), [[1]], ("x",))
    is_read(parse(b" label , a \n x , 1 \n\n\ny, +.5\n"), [[1], [0.5]], ("x", "y"))
    assert parse(b'"a,b","c ""d""\n e"\n"1","2"\n').feature_names == ("a,b", 'c "d"\n e')
    is_read(parse("a,label\n1,\"häßlich, 'x'\"\n".encode()), [[1]], ("häßlich, 'x'",))
    is_read(parse(b"a_b,label\n1,x_y\n"), [[1]], ("x_y",))


BAD_CSV: dict[str, tuple[bytes, dict[str, str]]] = {
    "empty": (b"", {"columns": "header line"}),
    "only a header": (b"a,b\n", {"rows": "at least 1"}),
    "text for a number": (
        b"a,label,b\n1,x,2\n3,x,four\n",
        {"rows[1].b": "row 1 .line 3., column 'b': expected a number, got 'four'"},
    ),
    "underscores": (b"a\n1_000\n", {"rows[0].a": "expected a number, got '1_000'"}),
    "infinity": (
        b"a,b\ninf,1\n2,-inf\n",
        {"rows[0].a": "is 'inf'; finite", "rows[1].b": "is '-inf'; finite"},
    ),
    "too large for float32": (
        b"a\n3.4e38\n1e39\n1e400\n",
        {"rows[1].a": "'1e39'; float32 holds 3.4e.38 at most", "rows[2].a": "'1e400'; float32"},
    ),
    "too few and too many columns": (
        b"a,b\n1\n1,2\n1,2,3\n",
        {
            "rows[0]": "has 1 values: expected 2",
            "rows[2]": r"row 2 \(line 4\) has 3 values: expected 2",
        },
    ),
    "duplicate names": (
        b"a,b,a,c,a\n1,2,3,4,5\n",
        {"columns": "'a' stands 3 times: columns 0, 2, 4"},
    ),
    "no name": (b",a\n1,2\n", {"columns[0]": "has a name of 0 characters.* index=False"}),
    "index read and written by pandas": (
        b"Unnamed: 0,a\n0,2\n",
        {"columns[0]": "'Unnamed: 0', as pandas names an index"},
    ),
    "numbers for a header": (
        b"\n5.1,3.5\n4.9,3.0\n",
        {"columns": "line 2 has only numbers: expected a header line"},
    ),
    "one row alone": (b"nan, -1e3", {"columns": "line 1 has only numbers"}),
    "no feature": (b"label\nx\n", {"columns": "no feature"}),
    "empty label": (
        b"label,a\n,1\nx,2\n  ,3\n",
        {"rows[0].label": "row 0 .line 2.: the label is empty", "rows[2].label": "is empty"},
    ),
    "not UTF-8": (b"a,label\n1,x\n2,\xff\n", {"rows": "line 3 is not UTF-8"}),
    "UTF-8 that breaks off": (b"a,label\n1,\xc3", {"rows": "line 2 is not UTF-8"}),
    "open quote": (b'a\n1\n"2\n', {"rows": "line 3 opens a quote that is never closed"}),
    "text after a quote": (b'a\n"1"2\n', {"rows": "line 2 is not CSV"}),
    "all sorts at once": (
        b"a,label\nx,\n1\ninf,y\n",
        {"rows[0].label": "empty", "rows[0].a": "'x'", "rows[1]": "1 val", "rows[2].a": "inf"},
    ),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv_is_told_by_row_and_column(name: str) -> None:
    content, wanted = BAD_CSV[name]
    found = refused(content)
    assert set(found) == set(wanted)
    for field, pattern in wanted.items():
        assert re.search(pattern, found[field]), found


def test_what_is_not_utf8_is_found_beyond_the_first_megabyte() -> None:
    label = "ä" * 101
    lines = b"a,label\n" + f"1,{label}\n".encode() * 10_000
    assert len(lines) > 2**20
    assert parse(lines).labels == (label,) * 10_000
    assert refused(lines + b"1,\xa4\n") == {"rows": "line 10002 is not UTF-8"}


def test_numbers_are_finite_integers_or_floats_of_a_matrix() -> None:
    for dtype in ("<f2", "<f4", ">f8", "i1", "<u8", ">i4"):
        array = np.array([[1, 2], [3, 4], [5, 6]], dtype)
        for order in (array, np.asfortranarray(array)):
            dataset = parse(npy(order))
            is_read(dataset, [[1, 2], [3, 4], [5, 6]], None)
            assert dataset.feature_names == ("feature_0", "feature_1")
            assert dataset.format is Format.NPY


HEADER_OF_A_PETABYTE = npy(np.zeros((1, 4))).replace(b"(1, 4)", b"(9999999999999, 4)", 1)

BAD_NPY: dict[str, tuple[bytes, dict[str, str]]] = {
    "no NPY": (b"a,b\n1,2\n", {"header.format": "does not begin as one does"}),
    "only its magic": (b"\x93NUMPY", {"rows": "header"}),
    "no header": (b"\x93NUMPY\x01\x00\xff\xff{", {"rows": "header"}),
    "program for a header": (
        npy(np.zeros((1, 4))).replace(b"False", b"exit()", 1),
        {"rows": "header"},
    ),
    "truncated": (
        npy(np.zeros((3, 4)))[:-1],
        {"rows": "take 95 bytes; expected 3 . 4 values of 8"},
    ),
    "too long": (npy(np.zeros((3, 4))) + b"x", {"rows": "take 97 bytes"}),
    "promises": (HEADER_OF_A_PETABYTE, {"rows": "9999999999999 . 4 values"}),
    "objects": (npy(np.array([[None]])), {"rows": "of type object"}),
    "text": (npy(np.array([["1"]])), {"rows": "of type <U1"}),
    "complex": (npy(np.array([[1j]])), {"rows": "of type complex128"}),
    "records of text": (
        npy(np.zeros(3, [("a", "f4"), ("b", "S1"), ("c", "f4", 2)])),
        {"columns[1]": r"'b' is a \|S1; expected integers", "columns[2]": "'c' is a "},
    ),
    "matrix of records": (npy(np.zeros((3, 1), [("a", "f4")])), {"rows": r"shape \(3, 1\)"}),
    "a list": (npy(np.zeros(3)), {"rows": r"shape \(3,\)"}),
    "a cube": (npy(np.zeros((1, 2, 3))), {"rows": r"shape \(1, 2, 3\)"}),
    "no rows": (npy(np.zeros((0, 4))), {"rows": "at least 1"}),
    "no columns": (npy(np.zeros((4, 0))), {"columns": "no feature"}),
    "too wide": (npy(np.zeros((0, 2**40))), {"columns": "at most 4096"}),
    "odd values": (
        npy(np.array([[1, NAN], [-INFINITY, 1e39]])),
        {
            "rows[1].feature_0": "is -inf; finite",
            "rows[1].feature_1": r"is 1e\+39; float32 holds",
        },
    ),
}


@pytest.mark.parametrize("name", BAD_NPY)
def test_bad_npy_is_told(name: str) -> None:
    content, wanted = BAD_NPY[name]
    found = refused(content, Format.NPY)
    assert set(found) == set(wanted)
    for field, pattern in wanted.items():
        assert re.search(pattern, found[field]), found


def test_parquet_is_read_with_text_and_integers_for_labels() -> None:
    content = packed(
        a=pa.array([1, 2, 3], pa.int64()),
        label=pa.array(["x", "y", "x"]),
        b=np.array([0.5, 1.5, 2.5], np.float16),
    )
    dataset = parse(content)
    assert dataset.format is Format.PARQUET
    assert dataset.feature_names == ("a", "b")
    is_read(dataset, [[1, 0.5], [2, 1.5], [3, 2.5]], ("x", "y", "x"))
    is_read(parse(packed(a=[1.0, 2.0], label=[7, 8])), [[1], [2]], ("7", "8"))
    categories = pa.array(["x", "y"]).dictionary_encode()
    is_read(parse(packed(a=[1.0, 2.0], label=categories)), [[1], [2]], ("x", "y"))
    is_read(parse(packed(a=[1.0, 2.0])), [[1], [2]], None)
    table = pa.table({"a": list(range(1000)), "label": [str(each) for each in range(1000)]})
    many = parse(packed_table(table, row_group_size=7))
    is_read(many, [[each] for each in range(1000)], tuple(str(each) for each in range(1000)))


def test_truth_values_and_decimals_are_numbers() -> None:
    is_read(parse(npy(np.array([[True, False]]))), [[1, 0]], None)
    decimals = pa.array([1, 2], pa.decimal128(9, 2))
    content = packed(a=[True, False], b=decimals, label=[True, False])
    is_read(parse(content), [[1, 1], [0, 2]], ("True", "False"))


def test_structured_array_has_names_and_labels() -> None:
    rows = np.array([(1, b"x", 0.5), (3, b"y", 1.5)], [("a", "i4"), ("label", "S1"), ("b", "f4")])
    dataset = parse(npy(rows))
    assert (dataset.feature_names, dataset.has_names) == (("a", "b"), True)
    is_read(dataset, [[1, 0.5], [3, 1.5]], ("x", "y"))


def laid(label: str = "", *drop: str, **dialect: Any) -> Layout:
    return Layout(Choice(label, drop), Dialect(**dialect))


@pytest.mark.parametrize(
    ("content", "layout", "names", "labels"),
    [
        (b"a,species,id\n1,x,7\n", laid("species", "id"), ("a",), ("x",)),
        (b"a,species,label\n1,x,2\n", laid("species"), ("a", "label"), ("x",)),
        (b"a,species,note\n1,x,text\n", laid("", "species", "note"), ("a",), None),
        (b"1,2,x\n", laid("-1", header=False), ("feature_0", "feature_1"), ("x",)),
        (b"1,2,x\n", laid("2", "0", header=False), ("feature_1",), ("x",)),
        (b"1,2\n3,4\n", laid(header=True), ("1", "2"), None),
        (b"a;label\n1;x\n", laid(), ("a",), ("x",)),
        (b"a\tlabel\n1\tx\n", laid(delimiter="\t"), ("a",), ("x",)),
        (b"a;label\n1,0;x\n", laid(decimal=","), ("a",), ("x",)),
        (b"sep=;\na;label\n1;x\n", laid(), ("a",), ("x",)),
        (npy(np.array([[1.0, 5.0]])), laid("-1"), ("feature_0",), ("5",)),
        (packed(a=[1.0], kind=["x"], when=["now"]), laid("kind", "when"), ("a",), ("x",)),
    ],
)
def test_columns_and_dialect_may_be_chosen(
    content: bytes, layout: Layout, names: tuple[str, ...], labels: tuple[str, ...] | None
) -> None:
    dataset = parse(content, layout=layout)
    assert (dataset.feature_names, dataset.labels) == (names, labels)


@pytest.mark.parametrize(
    ("content", "layout", "wrong"),
    [
        (b"a,b\n1,2\n", laid("kind"), "hold no column 'kind': there are 'a', 'b'"),
        (b"a,b\n1,2\n", laid("", "c"), "hold no column 'c'"),
        (b"a,b\n1,2\n", laid("1"), "hold no column '1'"),
        (b"1,2\n", laid("2", header=False), "hold no column '2'"),
        (b"a\n1\n", laid("a"), "hold no feature: expected one besides 'a'"),
        (b"a,b,b\n1,2,3\n", laid("b"), "the name 'b' stands 2 times: columns 1, 2"),
    ],
)
def test_choice_that_the_file_does_not_have_is_refused(
    content: bytes, layout: Layout, wrong: str
) -> None:
    with pytest.raises(InvalidRequest, match=wrong):
        parse(content, layout=layout)


def test_what_was_recognized_is_noted() -> None:
    assert parse(b"a;label\n1;x\n").notes == ("cells are parted by a semicolon",)
    assert parse(b"a,label\n1,x\n").notes == ()
    indexed = parse(packed_table(with_index(pa.table({"a": [1.0], "id": [1]}), "id")))
    assert indexed.notes == ("left out, as the index of a DataFrame: 'id'",)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"a,b\n1,2\n , \n3,4\n", "row 1 (line 3), column 'a'"),
        (b"a,b\n1,2\n3,NaN\n", "row 1 (line 3), column 'b'"),
        (npy(np.array([[1.0, NAN]])), "row 0, column 'feature_1'"),
        (packed(a=[1, None], b=[2.0, 3.0]), "row 1, column 'a'"),
    ],
)
def test_first_missing_value_is_told(content: bytes, place: str) -> None:
    dataset = parse(content)
    assert dataset.first_missing == place
    assert dataset.notes == (
        f"values are missing, the first in {place}: only models that take such score it",
    )


def test_arrow_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match=r"format: is Arrow, .* send CSV, NPY or Parquet"):
        parse(b"ARROW1\0\0")


def with_index(table: Any, *index: Any) -> Any:
    """The table with what pandas says of its index."""
    return table.replace_schema_metadata({"pandas": json.dumps({"index_columns": index})})


INDEXES: dict[str, Any] = {
    "numbers": [7, 8, 9],
    "texts": ["p", "q", "p"],
    "times": pa.array([1, 2, 3], pa.timestamp("ns")),
    "nulls": [None, 1.5, NAN],
}


@pytest.mark.parametrize("name", ["__index_level_0__", "id"])
@pytest.mark.parametrize("values", INDEXES)
def test_index_of_a_dataframe_is_no_feature(name: str, values: str) -> None:
    columns = {name: INDEXES[values], "label": ["x", "y", "x"], "a": [1.0, 2.0, 3.0]}
    dataset = parse(packed_table(with_index(pa.table(columns), name)))
    assert (dataset.feature_names, dataset.left_out) == (("a",), (name,))
    is_read(dataset, [[1], [2], [3]], ("x", "y", "x"))


def test_index_that_is_the_label_or_no_column_leaves_nothing_out() -> None:
    table = pa.table({"a": [1.0, 2.0], "label": ["x", "y"]})
    counted = {"kind": "range", "name": "a", "start": 0, "stop": 2, "step": 1}
    for index in ("label", counted):
        dataset = parse(packed_table(with_index(table, index)))
        assert (dataset.feature_names, dataset.left_out) == (("a",), ())
        is_read(dataset, [[1], [2]], ("x", "y"))


TWICE = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])

BAD_PARQUET: dict[str, tuple[bytes, dict[str, str]]] = {
    "no Parquet": (b"a,b\n1,2\n", {"rows": "are no Parquet"}),
    "empty": (b"", {"rows": "are no Parquet"}),
    "only its magic": (b"PAR1", {"rows": "are no Parquet"}),
    "truncated": (packed(a=[1.0] * 100)[:-20], {"rows": "are no Parquet"}),
    "no rows": (packed(a=pa.array([], pa.float32())), {"rows": "at least 1"}),
    "no feature": (packed(label=["x"]), {"columns": "no feature"}),
    "duplicate names": (packed_table(TWICE), {"columns": "'a' stands 2 times"}),
    "text and lists": (
        packed(a=["1"], b=[[1.0]], c=pa.array([1], pa.date32()), d=[1.0]),
        {"columns[0]": "'a' is a 'string'", "columns[1]": "list", "columns[2]": "date32"},
    ),
    "an index alone": (packed(__index_level_0__=[1]), {"columns": "no feature"}),
    "index read and written by pandas": (
        packed(**{"Unnamed: 0": [1], "a": [1.0]}),
        {"columns[0]": "'Unnamed: 0', as pandas names an index"},
    ),
    "float labels": (
        packed(a=[1.0, 1.0, 1.0], label=[0.5, 2.0, None]),
        {"rows[0].label": "label is 0.5; expected text or a whole", "rows[2].label": "is empty"},
    ),
    "labels of lists": (
        packed(a=[1.0], label=[["x"]]),
        {"columns[1]": "the label 'label' is a 'list<"},
    ),
    "nulls": (
        packed(a=[1, None, 3], b=[None, 2.0, NAN], label=["x", None, ""]),
        {
            "rows[1].label": "row 1: the label is empty",
            "rows[2].label": "row 2: the label is empty",
        },
    ),
    "too large for float32": (packed(a=[1e39]), {"rows[0].a": "float32"}),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_bad_parquet_is_told(name: str) -> None:
    content, wanted = BAD_PARQUET[name]
    found = refused(content, Format.PARQUET)
    assert set(found) == set(wanted)
    for field, pattern in wanted.items():
        assert re.search(pattern, found[field]), found


def test_parquet_without_pyarrow_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    content = packed(a=[1.0])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = refused(content)
    assert "pyarrow is not installed" in found["header.format"]
    assert "send CSV or NPY" in found["header.format"]
    assert parse(b"a\n1\n").rows.tolist() == [[1]]


def test_format_is_told_by_the_content() -> None:
    assert format_of(npy(np.zeros((1, 1)))) is Format.NPY
    assert format_of(packed(a=[1.0])) is Format.PARQUET
    assert format_of(IRIS) is Format.CSV
    assert format_of(b"") is Format.CSV


@pytest.mark.parametrize("format", [Format.CSV, Format.NPY, Format.PARQUET])
def test_size_is_limited_in_rows_columns_and_values(format: Format) -> None:
    def of(rows: int, columns: int) -> bytes:
        array = np.ones((rows, columns))
        if format is Format.NPY:
            return npy(array)
        names = [f"c{index}" for index in range(columns)]
        if format is Format.PARQUET:
            return packed_table(pa.Table.from_arrays(list(array.T), names=names))
        lines = [",".join(names), *(",".join(map(str, row)) for row in array.tolist())]
        return "\n".join(lines).encode()

    for fits in ((3, 3), (2, 4), (1, 1)):
        assert parse(of(*fits), format, SMALL).rows.shape == fits
    for large in ((4, 1), (3, 4)):
        with pytest.raises(InvalidRequest, match="rows: are more than"):
            parse(of(*large), format, SMALL)
    with pytest.raises(InvalidRequest, match="hold 5 features; at most 4"):
        parse(of(1, 5), format, SMALL)


def test_a_million_rows_are_taken_and_no_more() -> None:
    million = np.ones((1_000_000, 1), np.int8)
    assert parse(npy(million)).rows.shape == (1_000_000, 1)
    more = np.ones((1_000_001, 1), np.int8)
    assert refused(npy(more))["rows"].startswith("are more than 1000000")


@pytest.mark.parametrize("nasty", ["x" * 10_000, "ä\n\t" * 50, "\U0001f33a" * 190])
def test_twenty_violations_end_the_reading_and_fit_into_an_answer(nasty: str) -> None:
    name = nasty[:190]
    file = io.StringIO(newline="")
    csv.writer(file).writerows([[name, "b"], *([nasty, nasty] for _ in range(1000))])
    with pytest.raises(InvalidRequest) as caught:
        parse(file.getvalue().encode())
    assert len(caught.value.violations) == 20
    # gRPC's callers take 8 KiB of trailers, where bytes come as base64.
    assert to_status(caught.value, "x" * 128).ByteSize() * 4 / 3 < 7000


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)
MATRICES = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=NUMBERS
)
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20
).filter(lambda text: text == text.strip() and text != "label")


@st.composite
def tables(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], list[str], list[str] | None, int]:
    """Rows, names, labels or None, and where the labels' column stands."""
    rows = draw(MATRICES)
    count, width = rows.shape
    names = draw(st.lists(TEXTS, min_size=width, max_size=width, unique=True))
    labels = draw(st.none() | st.lists(TEXTS, min_size=count, max_size=count))
    return rows, names, labels, draw(st.integers(0, width))


def is_the_table(dataset: Dataset, table: Any) -> None:
    rows, names, labels, _ = table
    assert dataset.rows.tobytes() == rows.tobytes()
    assert dataset.feature_names == tuple(names)
    assert dataset.labels == (None if labels is None else tuple(labels))


@given(
    tables().filter(lambda table: table[2] is not None or not are_numbers(table[1])),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_what_is_written_as_csv_is_read(table: Any, ending: str, quoted: bool) -> None:
    rows, names, labels, place = table
    lines: list[list[Any]] = [list(names), *rows.tolist()]
    if labels is not None:
        for line, label in zip(lines, ["label", *labels], strict=True):
            line.insert(place, label)
    file = io.StringIO(newline="")
    dialect = csv.unix_dialect if quoted else csv.excel
    csv.writer(file, dialect, lineterminator=ending).writerows(lines)
    is_the_table(parse(file.getvalue().encode(), layout=laid(delimiter=",")), table)


@given(MATRICES, st.sampled_from(["<f4", ">f4", "<f8"]), st.booleans())
def test_what_numpy_saves_is_read(
    rows: npt.NDArray[np.float32], dtype: str, in_columns: bool
) -> None:
    stored = rows.astype(dtype)
    dataset = parse(npy(np.asfortranarray(stored) if in_columns else stored))
    assert dataset.rows.tobytes() == rows.tobytes()
    assert dataset.labels is None


@given(tables(), st.booleans(), st.sampled_from(["none", "snappy", "zstd"]))
def test_what_pyarrow_writes_is_read(table: Any, dictionary: bool, compression: str) -> None:
    rows, names, labels, place = table
    columns: list[Any] = [pa.array(column) for column in rows.T]
    all_names = list(names)
    if labels is not None:
        all_names.insert(place, "label")
        columns.insert(place, pa.array(labels))
    written = pa.Table.from_arrays(columns, names=all_names)
    content = packed_table(written, use_dictionary=dictionary, compression=compression)
    is_the_table(parse(content), table)


def is_read_or_refused(content: bytes, format: Format | None = None) -> None:
    dataset: Dataset | None = None
    told: Sequence[Violation] = ()
    try:
        dataset = parse(content, format, SMALL)
    except InvalidRequest as error:
        told = error.violations
    if dataset is None:
        assert 1 <= len(told) <= 20
        assert all(each.field and each.description for each in told)
        return
    assert not np.isinf(dataset.rows).any()
    assert bool(dataset.first_missing) is bool(np.isnan(dataset.rows).any())
    assert dataset.rows.shape[1] == len(dataset.feature_names) >= 1
    assert dataset.labels is None or len(dataset.labels) == len(dataset.rows) >= 1


@given(st.binary(max_size=200) | st.text("a,b\n\"'label 1.e-_\r", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for format in (None, *Format):
        is_read_or_refused(content, format)


SOUND = (
    b"a,label\n1,x\n2,y\n",
    npy(np.array([[1.0, 2.0], [3.0, 4.0]])),
    packed(a=[1.0, 2.0], label=["x", "y"]),
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SOUND),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 2000) | st.none(),
)
def test_damaged_files_are_read_or_refused(
    content: bytes, changes: list[tuple[int, int]], end: int | None
) -> None:
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    is_read_or_refused(bytes(damaged[:end]))


@given(st.integers(0, 2**64 - 1), st.integers(-(2**70), 2**70), st.integers(-(2**70), 2**70))
def test_no_shape_that_a_header_claims_takes_memory(magic: int, rows: int, columns: int) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}\n"
    raw = header.encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw + struct.pack("<Q", magic)
    is_read_or_refused(content)
