"""Import the modules named on the command line, in that order, and use every stub among them.

Not a test: test_stubs_import.py runs this text with `python -c` in environments of its own, so it
may import nothing but grpc and protobuf. Prints one JSON object, module name to file.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


def fill(message: Any) -> None:
    """Set every plain field of `message` to a value that is not its default."""
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            continue
        plain: dict[int, Any] = {
            field.CPPTYPE_STRING: b"\0\1" if field.type == field.TYPE_BYTES else "a",
            field.CPPTYPE_BOOL: True,
            field.CPPTYPE_FLOAT: 0.5,
            field.CPPTYPE_DOUBLE: 0.5,
        }
        value = plain.get(field.cpp_type, 1)
        if isinstance(getattr(message, field.name), str | bytes | bool | int | float):
            setattr(message, field.name, value)
        else:
            getattr(message, field.name).append(value)


def use_messages(module: ModuleType) -> None:
    """Send every message type of a `_pb2` module through its wire form."""
    for name in module.DESCRIPTOR.message_types_by_name:
        kind = getattr(module, name)
        message = kind()
        fill(message)
        if kind.FromString(message.SerializeToString()) != message:
            raise SystemExit(f"{module.__name__}.{name} does not survive a round trip")


def use_services(module: ModuleType) -> None:
    """Make a stub object of every service of a `_pb2_grpc` module; the channel never connects."""
    import grpc

    with grpc.insecure_channel("127.0.0.1:1") as channel:
        stubs = [
            getattr(module, name)(channel) for name in vars(module) if name.endswith("ServiceStub")
        ]
    if not stubs or not all(vars(stub) for stub in stubs):
        raise SystemExit(f"{module.__name__} has no stub with methods")


def imported(names: list[str]) -> Iterator[tuple[str, str]]:
    """Import and use each module; its name and its file."""
    for name in names:
        module = importlib.import_module(name)
        if name.endswith("_pb2"):
            use_messages(module)
        if name.endswith("_pb2_grpc"):
            use_services(module)
        yield name, str(module.__file__)


if __name__ == "__main__":
    print(json.dumps(dict(imported(sys.argv[1:]))))
