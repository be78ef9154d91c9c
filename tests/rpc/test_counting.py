"""What a message holds is counted before it is parsed, and no further than to the limit."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.errors import taken_apart
from trillium.access.door import Door
from trillium.access.roles import Role
from trillium.aggregator.v1 import aggregator_service_pb2 as pb
from trillium.oip import open_inference_pb2 as oip
from trillium.rpc.call import Call, CallFailed, open_call
from trillium.rpc.counting import has_more_entries
from trillium.rpc.methods import Endpoints, Limits, MethodKind, RpcMethod

TEXTS = oip.ModelInferRequest.InferInputTensor(
    contents=oip.InferTensorContents(bytes_contents=[b""] * 9)
)
ROW = pb.Instance(features=[1.0, 2.0])
FLOAT_ENTRY = b"\x0d\x00\x00\x80\x3f"


class Counted(bytes):
    """Bytes that count how often one of them is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)


def entries(message: Message, most: int) -> bool:
    return has_more_entries(message.SerializeToString(), type(message).DESCRIPTOR, most)


@pytest.mark.parametrize(
    ("message", "count"),
    [
        (pb.PredictRequest(ensemble="iris", allow_partial=True), 2),
        (pb.PredictRequest(instances=[ROW] * 300, class_labels=["a", "b"]), 302),
        (pb.PredictStreamRequest(request=pb.PredictRequest(instances=[ROW] * 300)), 301),
        (pb.PredictStreamRequest(request_number=2**63), 1),
        (oip.ModelInferRequest(inputs=[TEXTS]), 11),
        (oip.ModelInferRequest(raw_input_contents=[bytes(range(256)) * 99]), 1),
    ],
)
def test_entries_of_all_levels_are_counted(message: Message, count: int) -> None:
    assert entries(message, count - 1)
    assert not entries(message, count)


def test_counting_ends_at_the_limit() -> None:
    raw = Counted(pb.PredictRequest(instances=[pb.Instance()] * 100_000).SerializeToString())
    assert has_more_entries(raw, pb.PredictRequest.DESCRIPTOR, 100)
    assert raw.looks <= 2 * 100


def test_a_row_is_one_entry_though_its_numbers_are_not_packed() -> None:
    row = FLOAT_ENTRY * 20
    number = pb.PredictRequest.DESCRIPTOR.fields_by_name["instances"].number
    raw = bytes([number << 3 | 2, len(row)]) + row
    assert len(pb.PredictRequest.FromString(raw).instances[0].features) == 20
    assert not has_more_entries(raw, pb.PredictRequest.DESCRIPTOR, 1)


def test_a_type_that_holds_itself_is_counted_to_its_depth() -> None:
    value = struct_pb2.Value(number_value=1)
    for _ in range(50):
        value = struct_pb2.Value(list_value=struct_pb2.ListValue(values=[value]))
    assert entries(value, 100)
    assert not entries(value, 101)


@given(st.binary(max_size=200), st.integers(0, 50))
def test_no_bytes_upset_the_count(raw: bytes, most: int) -> None:
    more = has_more_entries(raw, pb.PredictStreamRequest.DESCRIPTOR, most)
    assert not more or len(raw) > most


async def test_a_message_of_too_many_entries_is_refused_before_it_is_parsed() -> None:
    async def never(request: Message, call: Call) -> Message:
        raise AssertionError("the handler was called")

    def parse(raw: bytes) -> Message:
        raise AssertionError(f"{len(raw)} bytes were parsed")

    unparsed: Any = SimpleNamespace(DESCRIPTOR=pb.PredictRequest.DESCRIPTOR, FromString=parse)
    method = RpcMethod("One", MethodKind.UNARY_UNARY, unparsed, never)
    endpoint = Endpoints(Limits(max_entries=1000), Door(rules={"/One": Role.NONE})).of(method)
    raw = pb.PredictRequest(instances=[pb.Instance()] * 2**19).SerializeToString()
    with pytest.raises(CallFailed) as caught:
        await endpoint(raw + b"\x12\x00", open_call("/One", {}, math.inf, ""))
    failure = taken_apart(caught.value.status)
    assert failure.code == "INVALID_ARGUMENT"
    assert "more than 1000 entries" in failure.fields["message"]
