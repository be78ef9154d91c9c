"""Rows that are refused before anything is sent, and gRPC's failures as errors of ours."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest

import trillium
from trillium import errors, wire
from trillium.rpc.status import DETAILS_KEY, to_status


@pytest.mark.parametrize(
    "values",
    [
        [["5.1", "3.5"]],
        np.array([[1 + 2j]]),
        np.array([[1.0, None]], dtype=object),
        np.array(["2024-01-01"], dtype="datetime64[D]"),
        None,
    ],
)
def test_what_is_no_number_is_a_type_error(values: Any) -> None:
    with pytest.raises(TypeError, match="rows must be numbers"):
        wire.as_rows(values)


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
