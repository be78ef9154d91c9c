"""Rows that are refused before anything is sent, and gRPC's failures as errors of ours."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest

import trillium
from trillium import errors
from trillium.client import wire
from trillium.rpc.status import DETAILS_KEY, to_status

NAN = float("nan")


@pytest.mark.parametrize(
    "values",
    [
        [["5.1", "3.5"]],
        np.array([[1 + 2j]]),
        np.array([[1.0, "5.1"]], dtype=object),
        np.array([[1.0, 1j]], dtype=object),
        np.array(["2024-01-01"], dtype="datetime64[D]"),
        None,
    ],
)
def test_what_is_no_number_is_a_type_error(values: Any) -> None:
    with pytest.raises(TypeError, match="rows must be numbers"):
        wire.as_rows(values)


class Sparse:
    """Stands for a sparse matrix of SciPy."""

    nnz = 1

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def toarray(self) -> Any:
        return np.eye(self.shape[0], self.shape[1])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[Decimal("5.1"), True]], [[5.1, 1]]),
        (np.array([[1, None], [2, 3.5]], dtype=object), [[1, NAN], [2, 3.5]]),
        (np.ma.masked_array([[1.0, 2.0]], [[False, True]]), [[1, NAN]]),
        (np.ma.masked_array([[1, 2]], [[True, False]]), [[NAN, 2]]),
        (pa.table({"a": pa.array([1, None]), "b": [True, False]}), [[1, 1], [NAN, 0]]),
        (pa.table({"a": pa.array([1], pa.decimal128(9, 2))}), [[1]]),
        (Sparse(2, 2), [[1, 0], [0, 1]]),
    ],
)
def test_what_libraries_put_into_tables_are_numbers(values: Any, expected: Any) -> None:
    np.testing.assert_array_equal(wire.as_rows(values), np.array(expected, np.float32))


def test_text_in_a_column_is_named() -> None:
    with pytest.raises(TypeError, match="column 1 holds 'blue' in row 1"):
        wire.as_rows(np.array([[1.0, 2.0], [3.0, "blue"]], dtype=object))


def test_sparse_matrix_is_unpacked_up_to_a_limit() -> None:
    with pytest.raises(ValueError, match=r"shape \(1000000, 1000\) has 1000000000 values unpacked"):
        wire.as_rows(Sparse(1_000_000, 1000))  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [[[1.0, 2.0], [3.0]], 5.0, np.zeros((2, 2, 2))])
def test_what_is_no_matrix_is_a_value_error(values: Any) -> None:
    with pytest.raises(ValueError, match="rows"):
        wire.as_rows(values)


@pytest.mark.parametrize("values", [[[]], np.zeros((0, 4))])
def test_nothing_to_score_is_a_value_error(values: Any) -> None:
    with pytest.raises(ValueError, match="nothing to score"):
        wire.as_rows(values)


def test_an_empty_list_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"shape"):
        wire.as_rows([])


@dataclass
class Failure:
    """What grpc tells of a failed call."""

    status: grpc.StatusCode
    text: str = ""
    trailing: tuple[tuple[str, bytes], ...] | None = None

    def code(self) -> grpc.StatusCode:
        return self.status

    def details(self) -> str:
        return self.text

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...] | None:
        return self.trailing


def test_a_status_in_the_trailers_becomes_the_error_that_was_raised() -> None:
    status = to_status(errors.Overloaded("full", retry_after_s=0.5), "id-1")
    trailing = (("other", b""), (DETAILS_KEY, status.SerializeToString()))
    failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", trailing)
    error = wire.error_of(failure, "here:1", 1)
    assert isinstance(error, errors.Overloaded)
    assert (error.retry_after_s, error.request_id) == (0.5, "id-1")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unreachable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded),
        (grpc.StatusCode.CANCELLED, errors.Cancelled),
        (grpc.StatusCode.PERMISSION_DENIED, errors.RemoteError),
    ],
)
def test_a_failure_without_a_status_is_told_by_its_code(
    code: grpc.StatusCode, kind: type[errors.TrilliumError]
) -> None:
    error = wire.error_of(Failure(code, "because"), "here:1", 1)
    assert type(error) is kind
    assert error.code.name == code.name
    assert "here:1" in str(error)


def test_a_broken_status_does_not_hide_the_failure() -> None:
    failure = Failure(grpc.StatusCode.UNAVAILABLE, "gone", ((DETAILS_KEY, b"\xff"),))
    assert isinstance(wire.error_of(failure, "here:1", 1), errors.Unreachable)


def test_importing_trillium_needs_neither_numpy_nor_grpc() -> None:
    code = (
        "import sys, trillium, trillium.errors; trillium.TrilliumError;"
        "assert not {'numpy', 'grpc', 'google.protobuf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_had() -> None:
    for name in trillium.__all__:
        assert getattr(trillium, name) is not None
    assert set(trillium.__all__) <= set(dir(trillium))
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = trillium.Clint
