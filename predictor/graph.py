"""What must be seen or changed in an ONNX graph itself, before ONNX Runtime opens it.

The `onnx` package costs time and memory to import, so it is imported only for the rare artifact
that needs it: one with ZipMap, or one that may refer to files outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_STEP_BYTES = 2**20


class Unusable(Exception):
    """The reason why an artifact cannot be served, in words that follow "the model is refused"."""


def check_self_contained(artifact: bytes) -> None:
    """Refuse an artifact whose weights lie in other files: it could name any file here.

    Every such reference has the key "location", so most artifacts are passed without a parse.
    """
    if not _mentions(artifact, b"location"):
        return
    import onnx

    model = _parse(artifact)
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise Unusable(
                f"tensor {tensor.name!r} lies in another file; one file must hold it all"
            )


def _mentions(artifact: bytes, word: bytes) -> bool:
    """As `word in artifact`, in steps, since every other thread stands still while one is taken."""
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

    The new output bears the old one's name. Answers the artifact and ZipMap's keys in column order.
    With several ZipMaps, `output_name` says which one is meant; when another output
    bears it, the ZipMaps are cut out with their outputs, and there are no keys.
    """
    import onnx

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
        text = "one output of maps made by ZipMap is wanted"
        raise Unusable(f"{text}; there: {names}" + (": give --output-name" if found else ""))
    (zipmap,) = found
    name, source = zipmap.output[0], zipmap.input[0]
    graph.node.remove(zipmap)
    graph.node.add(op_type="Identity", input=[source], output=[name], name="trillium_probabilities")
    probabilities = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    del graph.output[:]
    graph.output.append(probabilities)
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
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(artifact)
    except DecodeError as error:
        raise Unusable("it is no ONNX file, or only a part of one") from error
