"""What must be checked or changed in an ONNX graph itself, before ONNX Runtime opens it.

Only the rare artifact that needs it is parsed: one with ZipMap, or one that may refer to other
files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from .onnx_messages import EXTERNAL, FLOAT, model_class

_STEP_BYTES = 2**20


class Unusable(Exception):
    """Why an artifact cannot be served: a phrase that follows "the model is refused: "."""


def check_self_contained(artifact: bytes) -> None:
    """Refuse an artifact whose weights lie in other files: it could name any file here.

    Every such reference has the key "location", so most artifacts are passed without a parse.
    """
    if not _mentions(artifact, b"location"):
        return
    for tensor in _tensors(_parse(artifact)):
        if tensor.data_location == EXTERNAL:
            raise Unusable(
                f"tensor {tensor.name!r} lies in another file; one file must hold it all"
            )


def _mentions(artifact: bytes, word: bytes) -> bool:
    """As `word in artifact`, in steps, since every other thread waits during each."""
    ends = range(_STEP_BYTES, len(artifact) + _STEP_BYTES, _STEP_BYTES)
    return any(artifact.find(word, end - _STEP_BYTES, end + len(word)) >= 0 for end in ends)


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor anywhere in `message`: of graphs, nodes, functions, sparse ones, any depth."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in [value] if hasattr(value, "ListFields") else value:
            if field.message_type.name == "TensorProto":
                yield inner
            else:
                yield from _tensors(inner)


def without_zipmap(artifact: bytes, output_name: str) -> tuple[bytes, Sequence[int | str]]:
    """The artifact with the tensor [n, 2] that feeds ZipMap as output in ZipMap's place.

    The new output has the old one's name. Returns the artifact and ZipMap's keys in column order.
    Of several ZipMaps, the one whose output is `output_name` is meant; if it names another output,
    the ZipMaps are cut out with their outputs, and no keys are returned.
    """
    model = _parse(artifact)
    graph = model.graph
    outputs = {output.name for output in graph.output}
    maps = [node for node in graph.node if node.op_type == "ZipMap" and node.output[0] in outputs]
    found = [node for node in maps if output_name in ("", node.output[0])]
    if output_name and not found:
        _cut(graph, maps)
        return model.SerializeToString(), ()
    if len(found) != 1:
        names = ", ".join(node.output[0] for node in found) or "none"
        text = f"expected one output of maps made by ZipMap, got {names}"
        raise Unusable(text + (": give --output-name" if found else ""))
    (zipmap,) = found
    name, source = zipmap.output[0], zipmap.input[0]
    graph.node.remove(zipmap)
    graph.node.add(op_type="Identity", input=[source], output=[name], name="trillium_probabilities")
    del graph.output[:]
    graph.output.add(name=name, type={"tensor_type": {"elem_type": FLOAT}})
    keys: list[int | str] = []
    for attribute in zipmap.attribute:
        keys += [key.decode(errors="replace") for key in attribute.strings] or list(attribute.ints)
    if len(keys) != 2:
        raise Unusable(f"ZipMap maps {len(keys)} classes; a binary classifier has 2")
    return model.SerializeToString(), keys


def _cut(graph: Any, nodes: Sequence[Any]) -> None:
    """Remove nodes whose only users are outputs of the graph, and those outputs."""
    names = {node.output[0] for node in nodes}
    for node in nodes:
        graph.node.remove(node)
    kept = [output for output in graph.output if output.name not in names]
    del graph.output[:]
    graph.output.extend(kept)


def _parse(artifact: bytes) -> Any:
    try:
        return model_class().FromString(artifact)
    except DecodeError as error:
        raise Unusable("it is no ONNX file, or only part of one") from error
