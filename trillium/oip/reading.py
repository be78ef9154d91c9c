"""From a request to checked rows: everything that is wrong with a request is reported at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from trillium.errors import InvalidRequest, ModelNotFound, Violation, quoted
from trillium.oip import open_inference_pb2 as pb
from trillium.oip.model import INPUT, LABEL, ServedModel
from trillium.rows import WIRE_DTYPE, Block, check_finite
from trillium.violations import MAX_VIOLATIONS, Violations

Parameters: TypeAlias = Mapping[str, pb.InferParameter]

DATATYPE = "FP32"
_SHARED_MEMORY = "shared_memory_region"
_CONTENTS = "fp32_contents"


@dataclass(frozen=True, slots=True)
class Output:
    """One output that was requested."""

    name: str
    class_count: int = 0
    """Number of classes to name instead of the numbers; 0 means the numbers."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request that passed all checks."""

    block: Block
    outputs: tuple[Output, ...]
    raw: bool
    """Whether the values came raw, so that the response is raw, too."""
    timeout_s: float | None


def version_of(text: str, field: str) -> int | None:
    """The number of a version; None if it is empty. Raises InvalidRequest unless it is a whole
    number from 0."""
    if text and not (text.isascii() and text.isdigit()):
        raise InvalidRequest.of(field, f"is {quoted(text)}; expected a whole number")
    return int(text[:20]) if text else None


def check_has_version(model: ServedModel, version: int | None) -> None:
    """Raises ModelNotFound unless the model has that version; None means whichever it is."""
    if version is not None and version != int(model.version):
        there = ", ".join(model.versions)
        which = f"the only version is {there}" if len(model.versions) == 1 else f"there: {there}"
        raise ModelNotFound(f"model {model.name!r} has no version {version}; {which}")


def read(request: pb.ModelInferRequest, model: ServedModel) -> Question:
    """The request, checked; raises InvalidRequest with everything that is wrong, up to a limit."""
    raw = bool(request.raw_input_contents)
    wrong = Violations()
    wrong.extend(_wrong_inputs(request, model))
    wrong.extend(_wrong_outputs(request, model))
    wrong.extend(_wrong_parameters(request.parameters))
    wrong.raise_any()
    timeout_us = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    return Question(
        block=_block(request, model),
        outputs=_outputs(request, model),
        raw=raw,
        timeout_s=timeout_us / 1e6 if timeout_us else None,
    )


def _wrong_inputs(request: pb.ModelInferRequest, model: ServedModel) -> Iterator[Violation]:
    if not request.inputs:
        yield Violation("inputs", f"is empty; the model takes {INPUT!r}")
    raw_count = len(request.raw_input_contents)
    if raw_count and raw_count != len(request.inputs):
        text = f"has {raw_count} entries; expected one for each of {len(request.inputs)} inputs"
        yield Violation("raw_input_contents", text)
    for index, tensor in enumerate(request.inputs[:MAX_VIOLATIONS]):
        field = f"inputs[{index}]"
        if tensor.name != INPUT:
            text = f"is {quoted(tensor.name)}; the model takes {INPUT!r}"
            yield Violation(f"{field}.name", text)
        elif index:
            yield Violation(f"{field}.name", f"is {INPUT!r} again; each input at most once")
        else:
            yield from _wrong_tensor(tensor, field, model, raw=bool(raw_count))


def _wrong_tensor(
    tensor: pb.ModelInferRequest.InferInputTensor, field: str, model: ServedModel, *, raw: bool
) -> Iterator[Violation]:
    if tensor.datatype != DATATYPE:
        text = f"is {quoted(tensor.datatype)}; expected {DATATYPE!r}"
        yield Violation(f"{field}.datatype", text)
    if not _is_shape(tensor.shape, model):
        shown = ", ".join(map(str, tensor.shape[:8])) + (", ..." if len(tensor.shape) > 8 else "")
        expected = f"expected [rows, {model.feature_count}] with 1 to {model.max_rows} rows"
        yield Violation(f"{field}.shape", f"is [{shown}]; {expected}")
    if _SHARED_MEMORY in tensor.parameters:
        yield _no_shared_memory(field)
    given = [each.name for each, _ in tensor.contents.ListFields()]
    if raw and given:
        text = "cannot be combined with raw_input_contents; give one of the two"
        yield Violation(f"{field}.contents", text)
    for name in given:
        if not raw and name != _CONTENTS:
            text = f"is given; {DATATYPE} values belong in {_CONTENTS}"
            yield Violation(f"{field}.contents.{name}", text)


def _is_shape(shape: Sequence[int], model: ServedModel) -> bool:
    return len(shape) == 2 and 1 <= shape[0] <= model.max_rows and shape[1] == model.feature_count


def _wrong_outputs(request: pb.ModelInferRequest, model: ServedModel) -> Iterator[Violation]:
    seen: set[str] = set()
    for index, output in enumerate(request.outputs[:MAX_VIOLATIONS]):
        field = f"outputs[{index}]"
        if output.name not in model.outputs:
            text = f"is {quoted(output.name)}; the model has {', '.join(model.outputs)}"
            yield Violation(f"{field}.name", text)
        elif output.name in seen:
            yield Violation(f"{field}.name", f"is {output.name!r} again; each output at most once")
        seen.add(output.name)
        if _SHARED_MEMORY in output.parameters:
            yield _no_shared_memory(field)
        if "classification" in output.parameters:
            yield from _wrong_classification(output, f"{field}.parameters.classification")


def _wrong_classification(
    output: pb.ModelInferRequest.InferRequestedOutputTensor, field: str
) -> Iterator[Violation]:
    parameter = output.parameters["classification"]
    if output.name == LABEL:
        yield Violation(field, f"is given; {LABEL!r} holds no numbers to classify")
    elif parameter.WhichOneof("parameter_choice") != "int64_param":
        yield Violation(field, "is no int64_param; expected a number of classes from 1")
    elif parameter.int64_param < 1:
        text = f"is {parameter.int64_param}; expected a number of classes from 1"
        yield Violation(field, text)


def _no_shared_memory(field: str) -> Violation:
    text = "is given; this server has no shared memory: send the values"
    return Violation(f"{field}.parameters.{_SHARED_MEMORY}", text)


def _wrong_parameters(parameters: Parameters) -> Iterator[Violation]:
    types = {"timeout": ("int64_param",), "priority": ("int64_param", "uint64_param")}
    for name, choices in types.items():
        if name not in parameters:
            continue
        parameter = parameters[name]
        choice = parameter.WhichOneof("parameter_choice")
        if choice not in choices:
            yield Violation(f"parameters.{name}", f"is no {' or '.join(choices)}")
        elif parameter.int64_param < 0:
            text = f"is {parameter.int64_param}; expected a number from 0"
            yield Violation(f"parameters.{name}", text)


def _block(request: pb.ModelInferRequest, model: ServedModel) -> Block:
    """The rows of a request whose input has the right shape; raises InvalidRequest."""
    tensor = request.inputs[0]
    row_count, column_count = tensor.shape
    count = row_count * column_count
    shape = f"shape [{row_count}, {column_count}]"
    if request.raw_input_contents:
        field = "raw_input_contents[0]"
        data = request.raw_input_contents[0]
        size = count * WIRE_DTYPE.itemsize
        if len(data) != size:
            raise InvalidRequest.of(field, f"has {len(data)} bytes; {shape} makes {size}")
    else:
        field = f"inputs[0].contents.{_CONTENTS}"
        values = tensor.contents.fp32_contents
        if len(values) != count:
            raise InvalidRequest.of(field, f"has {len(values)} values; {shape} makes {count}")
        data = np.fromiter(values, WIRE_DTYPE, count).tobytes()
    block = Block(row_count, column_count, data)
    check_finite(block.array(), field, takes_missing=model.takes_missing)
    return block


def _outputs(request: pb.ModelInferRequest, model: ServedModel) -> tuple[Output, ...]:
    if not request.outputs:
        return tuple(Output(name) for name in model.outputs)
    return tuple(
        Output(
            output.name,
            # Not by index alone: looking a key up in a map of messages puts it there.
            output.parameters["classification"].int64_param
            if "classification" in output.parameters
            else 0,
        )
        for output in request.outputs
    )
