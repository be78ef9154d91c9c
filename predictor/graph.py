"""What must be seen or changed in an ONNX graph itself, before ONNX Runtime opens it.

The `onnx` package costs time and memory to import, so it is imported only for the rare artifact
that needs it: one with ZipMap, or one that may refer to files outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class Unusable(Exception):
    """The reason why an artifact cannot be served, in words that follow "the model is refused"."""


def check_self_contained(artifact: bytes) -> None:
    """Refuse an artifact whose weights lie in other files: it could name any file here.

    Every such reference has the key "location", so most artifacts are passed without a parse.
    """
    if b"location" not in artifact:
        return
    import onnx

    model = _parse(artifact)
    for tensor in (*_tensors(model.graph), *_tensors_of_nodes(model.functions)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise Unusable(
                f"tensor {tensor.name!r} lies in another file; one file must hold it all"
            )


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes([graph])


def _tensors_of_nodes(bodies: Iterable[Any]) -> Iterator[Any]:
    """The tensors in the attributes of every node of some graphs or functions."""
    for attribute in (each for body in bodies for node in body.node for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for inner in (attribute.g, *attribute.graphs):
            if inner.node or inner.initializer:
                yield from _tensors(inner)


def without_zipmap(artifact: bytes, output_name: str) -> tuple[bytes, Sequence[int | str]]:
    """The artifact with the tensor [n, 2] that feeds ZipMap as output in ZipMap's place.

    The new output bears the old one's name. Answers the artifact and ZipMap's keys in column order.
    With several ZipMaps, `output_name` says which one is meant.
    """
    import onnx

    model = _parse(artifact)
    graph = model.graph
    outputs = {output.name for output in graph.output}
    found = [node for node in graph.node if node.op_type == "ZipMap" and node.output[0] in outputs]
    if output_name:
        found = [node for node in found if node.output[0] == output_name]
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
        keys += [key.decode() for key in attribute.strings] or list(attribute.ints)
    if len(keys) != 2:
        raise Unusable(f"ZipMap maps {len(keys)} classes; a binary classifier has 2")
    return model.SerializeToString(), keys


def _parse(artifact: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load_model_from_string(artifact)
    except DecodeError as error:
        raise Unusable("it is no ONNX file, or only a part of one") from error
