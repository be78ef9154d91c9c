"""What an answer says, whichever way its values travelled."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def outputs(response: Mapping[str, Any]) -> dict[str, tuple[str, list[Any]]]:
    """Element type and values of each output of a ModelInferResponse; texts as bytes."""
    raw = response.get("raw_output_contents")
    found = {}
    for index, tensor in enumerate(response["outputs"]):
        if raw is None:
            values = _typed(tensor["datatype"], tensor["contents"])
        else:
            values = _raw(tensor["datatype"], base64.b64decode(raw[index]))
        found[tensor["name"]] = (tensor["datatype"], values)
    return found


def shapes(tensors: Sequence[Mapping[str, Any]], key: str) -> dict[str, list[int]]:
    """The shape of each tensor, by name."""
    return {each["name"]: [int(size) for size in each.get(key, ())] for each in tensors}


def _typed(datatype: str, contents: Mapping[str, Any]) -> list[Any]:
    if datatype == "FP32":
        return [float(value) for value in contents["fp32_contents"]]
    return [base64.b64decode(text) for text in contents["bytes_contents"]]


def _raw(datatype: str, content: bytes) -> list[Any]:
    if datatype == "FP32":
        return list(struct.unpack(f"<{len(content) // 4}f", content))
    return list(_elements(content))


def _elements(content: bytes) -> Iterator[bytes]:
    while content:
        (length,) = struct.unpack_from("<I", content)
        yield content[4 : 4 + length]
        content = content[4 + length :]
