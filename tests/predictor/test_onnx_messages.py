"""The few ONNX messages that the predictor declares itself, against the whole schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import onnx
import pytest

from predictor.onnx_messages import EXTERNAL, FLOAT, model_class
from tests import artifacts


def reached(descriptor: Any) -> dict[str, Any]:
    """Every message that is part of `descriptor`, at any depth, by name."""
    messages = {descriptor.name: descriptor}
    waiting = [descriptor]
    while waiting:
        for field in waiting.pop().fields:
            inner = field.message_type
            if inner is not None and inner.name not in messages:
                messages[inner.name] = inner
                waiting.append(inner)
    return messages


def kind(field: Any) -> tuple[Any, ...]:
    inner = field.message_type
    # An enum is declared as its number.
    number = field.type in (field.TYPE_ENUM, field.TYPE_INT32)
    type_ = "number" if number else field.type
    return field.name, field.number, field.is_repeated, type_, inner and inner.name


def fields(messages: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    for name, message in messages.items():
        yield from ((name, *kind(field)) for field in message.fields)


def test_declared_fields_are_those_of_onnx() -> None:
    ours, theirs = (reached(each.DESCRIPTOR) for each in (model_class(), onnx.ModelProto))
    assert set(fields(ours)) <= set(fields(theirs))


def test_every_way_to_a_tensor_is_declared() -> None:
    ours, theirs = (reached(each.DESCRIPTOR) for each in (model_class(), onnx.ModelProto))
    holders = {
        name: message for name, message in theirs.items() if "TensorProto" in reached(message)
    }
    ways = {field for field in fields(holders) if field[-1] in holders}
    assert ("GraphProto", "initializer", 5, True, 11, "TensorProto") in ways
    assert ways <= set(fields(ours))


def test_constants_are_those_of_onnx() -> None:
    assert (FLOAT, EXTERNAL) == (onnx.TensorProto.FLOAT, onnx.TensorProto.EXTERNAL)


@pytest.mark.parametrize(
    "build",
    [artifacts.opset9_svm_zipmap, artifacts.string_zipmap, artifacts.two_column_tensor],
)
def test_what_is_not_declared_is_kept(build: Callable[[], bytes]) -> None:
    artifact = build()
    kept = model_class().FromString(artifact).SerializeToString()
    assert onnx.load_from_string(kept) == onnx.load_from_string(artifact)
