"""The dialect of CSV that training, datasets and the command line share."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest

from controller.catalog.datasets import Format, parse
from trillium.errors import InvalidRequest
from trillium.tables.csv_records import CsvError, NoHeader, header_of, recognized, records, text_of
from trillium.tables.dialect import Dialect, delimiter_named


def read(content: bytes) -> list[tuple[int, list[str]]]:
    return list(records(text_of(io.BytesIO(content))))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_ends_of_lines_and_a_byte_order_mark_do_not_matter(end: str, mark: bytes) -> None:
    lines = ["", 'a,"b, c"', "", "  ", "1,\u00e4", ""]
    assert read(mark + end.join(lines).encode()) == [(2, ["a", "b, c"]), (5, ["1", "\u00e4"])]


def test_a_record_over_several_lines_has_the_number_of_its_last() -> None:
    assert read(b'a,b\n"1\n2",3\n4,5\n') == [(1, ["a", "b"]), (3, ["1\n2", "3"]), (4, ["4", "5"])]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'a\n1\n"2\n3\n', "^line 3 opens a quote that is never closed$"),
        (b'a\n"1"2\n', "^line 2 is not CSV: "),
        (b"a,b\n\xc3\xa4,1\n2,\xff\n", "^line 3 is not UTF-8$"),
        (b"a\n1,\xc3", "^line 2 is not UTF-8$"),
        (b"a\n1\n\n\n2\n", "^line 3 is blank: expected a value in each line"),
        (b"a\n\n1\n", "^line 2 is blank: "),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content: bytes, what: str) -> None:
    with pytest.raises(CsvError, match=what):
        read(content)


def test_an_empty_value_of_one_column_is_no_blank_line() -> None:
    content = b'a\n1\n""\n \n2\n\n'
    assert [cells for _, cells in read(content)] == [["a"], ["1"], [""], [" "], ["2"]]


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"", "^the file is empty: expected a header"), (b"\n1,2\n", "^line 2 has only numbers: ")],
)
def test_a_header_has_names(content: bytes, what: str) -> None:
    with pytest.raises(NoHeader, match=what):
        header_of(iter(read(content)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\n1\n\n2\n", "rows: line 3 is blank"),
        (b'a,b\n1,2\n"3,4\n', "rows: line 3 opens a quote"),
    ],
)
def test_no_reader_skips_a_row_without_values(content: bytes, expected: str) -> None:
    with pytest.raises(InvalidRequest, match=expected):
        parse(content, Format.CSV)


@pytest.mark.parametrize("content", [b"a\n1\n  \n2\n", b"a,b\n1,2\n,\n3,4\n"])
def test_a_row_without_values_is_a_row(content: bytes) -> None:
    dataset = parse(content, Format.CSV)
    assert len(dataset.rows) == 3
    assert "(line 3)" in dataset.first_missing


@pytest.mark.parametrize(
    ("lines", "delimiter", "rest"),
    [
        (["a,b\n", "1,2\n"], ",", 2),
        (["a;b\n", "1;2\n"], ";", 2),
        (["a\tb\n", "1\t2\n"], "\t", 2),
        (["a|b\n", "1|2\n"], "|", 2),
        (["a\n", "1\n"], ",", 2),
        (["sep=;\n", "a;b\n"], ";", 1),
        (["SEP=|\r\n", "a|b\n"], "|", 1),
        (["length, cm;width, cm\n", "1;2\n"], ";", 2),
        (['"a;b",c\n', "1,2\n"], ",", 2),
        (["a;b,c\n", "1,2\n"], ",", 2),
        (["a|b;c\n", "1;2\n"], ";", 2),
        ([], ",", 0),
    ],
)
def test_delimiter_is_what_parts_the_first_lines(
    lines: list[str], delimiter: str, rest: int
) -> None:
    remaining, found, skipped = recognized(lines)
    assert (found, len(list(remaining)), skipped) == (delimiter, rest, len(lines) - rest)


@pytest.mark.parametrize(
    ("lines", "dialect", "expected"),
    [
        (["5,1;3,5\n", "4,9;3,0\n"], Dialect(decimal=","), ";"),
        (["5,1;3,5\n", "4,9;3,0\n"], Dialect(delimiter=","), ","),
        (["sep=;\n", "a;b\n"], Dialect(delimiter=";"), ";"),
    ],
)
def test_delimiter_may_be_given(lines: list[str], dialect: Dialect, expected: str) -> None:
    assert recognized(lines, dialect)[1] == expected


@pytest.mark.parametrize(
    ("lines", "dialect", "sentence"),
    [
        (["a;b,c;d\n", "1;2,3;4\n"], Dialect(), "the comma and the semicolon could both part"),
        (["sep=x\n"], Dialect(), "line 1 names the delimiter 'x': expected comma, semicolon"),
        (["sep=;\n"], Dialect(delimiter=","), "names the delimiter ';': expected comma"),
    ],
)
def test_delimiter_that_is_not_certain_is_refused(
    lines: list[str], dialect: Dialect, sentence: str
) -> None:
    with pytest.raises(CsvError, match=sentence):
        recognized(lines, dialect)


def test_first_line_alone_is_waited_for_where_it_is_enough() -> None:
    def piped() -> Iterator[str]:
        yield "1,2\n"
        raise AssertionError("nobody has asked for this line")

    remaining, delimiter, _ = recognized(piped())
    assert (next(remaining), delimiter) == ("1,2\n", ",")


@pytest.mark.parametrize(
    "wrong", [{"delimiter": ":"}, {"decimal": ";"}, {"delimiter": ",", "decimal": ","}]
)
def test_dialect_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Dialect(**wrong)


def test_delimiter_has_a_sign_and_a_name() -> None:
    assert [delimiter_named(text) for text in (";", "semicolon", "tab", r"\t")] == [
        ";",
        ";",
        "\t",
        "\t",
    ]
    with pytest.raises(ValueError, match="expected one of comma, semicolon, tab, bar"):
        delimiter_named("colon")
