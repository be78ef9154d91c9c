"""Every error survives the wire: what the server raises is what its caller gets."""

from __future__ import annotations

import re
from typing import Any

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from trillium import errors
from trillium.errors import ClassFailure, Phase, TrilliumError, Violation
from trillium.rpc.status import DOMAIN, code_of, from_status, to_status

FAILURES = (
    ClassFailure("setosa", "127.0.0.1:50061", Phase.CONNECT, "refused", 0.25),
    ClassFailure("virginica", "a:1,b:1", Phase.RUN, "boom", 1.5),
    ClassFailure("versicolor", "a:1", Phase.QUEUE, "late", 1.5, timed_out=True),
    ClassFailure("setosa", "a:2", Phase.RUN, "no number", 1.5, rejected=True),
)
SPECIAL: dict[type[TrilliumError], TrilliumError] = {
    errors.InvalidRequest: errors.InvalidRequest(
        [Violation(f"instances[{row}]", "is wrong") for row in range(5)]
    ),
    errors.Overloaded: errors.Overloaded("full", retry_after_s=0.125),
    errors.PredictorsFailed: errors.PredictorsFailed(FAILURES),
    errors.RemoteError: errors.RemoteError(errors.Code.DATA_LOSS, "STRANGE", "odd"),
    errors.InternalError: errors.InternalError(),
}


def all_kinds(kind: type[TrilliumError] = TrilliumError) -> list[type[TrilliumError]]:
    """Those of the tree; other packages have kinds of their own, which never go over the wire."""
    known = [sub for sub in kind.__subclasses__() if sub.__module__ == errors.__name__]
    return [each for sub in known for each in (sub, *all_kinds(sub))]


# Raised by a client of its own accord, never sent; see the drawing in trillium.errors.
OVER_THE_WIRE = [kind for kind in all_kinds() if kind is not errors.Unreachable]


def example(kind: Any) -> TrilliumError:
    error: TrilliumError = SPECIAL.get(kind) or kind("what went wrong: Größe")
    return error


@pytest.mark.parametrize("kind", OVER_THE_WIRE, ids=lambda kind: kind.__name__)
def test_error_comes_back_as_it_was_sent(kind: type[TrilliumError]) -> None:
    sent = example(kind)
    raw = to_status(sent, "flower-1").SerializeToString()
    back = from_status(status_pb2.Status.FromString(raw))
    assert type(back) is kind
    assert (back.code, back.reason, back.message) == (sent.code, sent.reason, sent.message)
    assert back.request_id == "flower-1"
    assert str(back) == str(sent)
    for name in ("violations", "retry_after_s", "failures", "facts"):
        assert getattr(back, name, None) == getattr(sent, name, None)


@pytest.mark.parametrize("kind", OVER_THE_WIRE, ids=lambda kind: kind.__name__)
def test_status_names_the_reason_in_our_domain(kind: type[TrilliumError]) -> None:
    status = to_status(example(kind))
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason) == (DOMAIN, example(kind).reason)
    assert re.fullmatch(r"[A-Z][A-Z0-9_]+[A-Z0-9]", info.reason)
    assert status.code == code_pb2.Code.Value(example(kind).code.name)


def test_every_error_is_in_the_drawing_with_its_code_and_reason() -> None:
    drawing = errors.__doc__ or ""
    for kind in all_kinds():
        (line,) = re.findall(rf"── {kind.__name__} .*", drawing)
        if kind not in (errors.RemoteError, errors.PredictorsFailed):
            assert kind.code.name in line.split()
            assert kind.reason in line.split()


def test_reasons_are_unique() -> None:
    reasons = [kind.reason for kind in all_kinds() if kind is not errors.RemoteError]
    assert len(set(reasons)) == len(reasons)


def test_codes_are_those_of_google_rpc() -> None:
    for code in errors.Code:
        assert code_pb2.Code.Value(code.name) == code


def test_lateness_of_every_class_is_a_deadline() -> None:
    late = [ClassFailure("a", "b:1", Phase.QUEUE, "late", 1, timed_out=True)] * 2
    error = errors.PredictorsFailed(late)
    assert error.code is errors.Code.DEADLINE_EXCEEDED
    assert from_status(to_status(error)).code is errors.Code.DEADLINE_EXCEEDED
    assert errors.PredictorsFailed([*late, FAILURES[0]]).code is errors.Code.UNAVAILABLE


def test_reason_of_a_newer_server_is_kept() -> None:
    status = status_pb2.Status(code=9, message="new")
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason="FROM_THE_FUTURE")
    status.details.add().Pack(info)
    back = from_status(status)
    assert type(back) is errors.RemoteError
    assert (back.code, back.reason) == (errors.Code.FAILED_PRECONDITION, "FROM_THE_FUTURE")


def test_reason_of_another_domain_is_not_mistaken_for_ours() -> None:
    status = status_pb2.Status(code=14, message="proxy")
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain="envoy", reason="DRAINING"))
    assert type(from_status(status)) is errors.RemoteError


@pytest.mark.parametrize("code", [0, 17, 99, -1])
def test_code_that_is_none_is_unknown(code: int) -> None:
    assert code_of(code) is errors.Code.UNKNOWN
    assert from_status(status_pb2.Status(code=code, message="x")).code is errors.Code.UNKNOWN


@pytest.mark.parametrize("kind", [errors.InvalidRequest, errors.PredictorsFailed])
@pytest.mark.parametrize("code", [3, 77])
def test_status_without_its_details_still_is_an_error_with_a_message(
    kind: type[TrilliumError], code: int
) -> None:
    status = status_pb2.Status(code=code, message="what went wrong")
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason=kind.reason)
    status.details.add().Pack(info)
    back = from_status(status)
    assert back.reason == kind.reason
    assert back.message == "what went wrong"
    assert to_status(back).message == "what went wrong"


def test_damaged_detail_is_passed_over() -> None:
    status = to_status(errors.ModelBusy("busy"))
    damaged = status.details.add()
    damaged.Pack(error_details_pb2.RetryInfo())
    damaged.value = b"\xff\xff"
    assert type(from_status(status)) is errors.ModelBusy


@pytest.mark.parametrize("text", ["x" * 10**6, "ü" * 10**5, "\U0001f33c" * 10**5, "\ud800" * 9])
def test_immense_message_is_cut_to_what_a_trailer_takes(text: str) -> None:
    status = to_status(errors.ModelRejected(text))
    assert len(status.message.encode()) < 1100
    assert len(status.SerializeToString()) < 1500
