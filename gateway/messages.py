"""Protobuf messages as JSON, and their JSON Schema, from the protos and their comments.

Names are those of the protos. 64-bit integers are JSON numbers. An enum value is its name without
the prefix. A Timestamp is a string in the form of RFC 3339, a Duration a number of seconds under
its name with `_s`. An unset field is null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from trillium import shortest as decimals

_TIMESTAMP = "google.protobuf.Timestamp"
_DURATION = "google.protobuf.Duration"
_MESSAGE_TYPE, _FIELD, _NESTED_TYPE = 4, 2, 3

Schema = dict[str, Any]


def to_json(message: Message) -> dict[str, Any]:
    """A message as an object for `json.dumps`."""
    return {_key(field): _value(message, field) for field in message.DESCRIPTOR.fields}


def enum_name(enum: EnumDescriptor, number: int) -> str:
    """The name of an enum value without its prefix; its number if it is unknown here."""
    value = enum.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix(_prefix(enum))


def enum_names(enum: EnumDescriptor) -> list[str]:
    """The names without their prefix; the unspecified one, which is never sent, is left out."""
    return [enum_name(enum, value.number) for value in enum.values if value.number]


def shortest(values: Any) -> Any:
    """float32 values as the shortest decimals that round to them: 5.1, not 5.0999999.

    An array of any shape becomes (nested) lists, a scalar a float.
    """
    return decimals.shortest(values).tolist()


def _key(field: Any) -> str:
    is_duration = field.message_type is not None and field.message_type.full_name == _DURATION
    return f"{field.name}_s" if is_duration else field.name


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
            return shortest(value)
        return [_single(each, field) for each in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(value, field)


def _single(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        match field.message_type.full_name:
            case name if name == _TIMESTAMP:
                return value.ToJsonString()
            case name if name == _DURATION:
                return value.ToNanoseconds() / 1e9
            case _:
                return to_json(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return shortest(value)
    return value


def _prefix(enum: EnumDescriptor) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"


_OTHER_TITLES = {"trillium.controller.v1.ListEnsemblesResponse": "ListEnsembleStatusesResponse"}
"""Of messages whose names messages of other packages have, too."""


def add_schema(descriptor: Any, schemas: dict[str, Schema]) -> Schema:
    """A reference to the schema of a message, which is added to `schemas` with all that it uses."""
    title = _OTHER_TITLES.get(descriptor.full_name, descriptor.name)
    if title not in schemas:
        schema: Schema = {
            "type": "object",
            "title": title,
            "description": _comment(descriptor.full_name),
        }
        schemas[title] = schema
        schema["properties"] = {
            _key(field): _described(_field_schema(field, schemas), _comment(field.full_name))
            for field in descriptor.fields
        }
        schema["required"] = list(schema["properties"])
        schema["additionalProperties"] = False
    return {"$ref": f"#/components/schemas/{title}"}


def _described(schema: Schema, comment: str) -> Schema:
    return {**schema, "description": comment} if comment else schema


def _field_schema(field: Any, schemas: dict[str, Schema]) -> Schema:
    single = _single_schema(field, schemas)
    if field.is_repeated:
        return {"type": "array", "items": single}
    return {"anyOf": [single, {"type": "null"}]} if field.has_presence else single


def _single_schema(field: Any, schemas: dict[str, Schema]) -> Schema:
    if field.message_type is not None:
        match field.message_type.full_name:
            case name if name == _TIMESTAMP:
                return {"type": "string", "format": "date-time"}
            case name if name == _DURATION:
                return {"type": "number"}
            case _:
                return add_schema(field.message_type, schemas)
    if field.enum_type is not None:
        # Examples only: a later version of the service may return new values.
        return {"type": "string", "examples": enum_names(field.enum_type)}
    return _SCALARS[field.cpp_type]


_SCALARS: Mapping[int, Schema] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer"},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "integer", "minimum": 0},
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.CPPTYPE_FLOAT: {"type": "number"},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}


def _comment(full_name: str) -> str:
    return _comments().get(full_name, "")


@cache
def _comments() -> Mapping[str, str]:
    """Comments of messages and fields by full name, which generated code does not contain."""
    raw = (resources.files("trillium") / "descriptors.binpb").read_bytes()
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
        for location in file.source_code_info.location:
            name = _name_at(file, tuple(location.path))
            if name and location.leading_comments:
                found[name] = " ".join(location.leading_comments.split())
    return found


def _name_at(file: descriptor_pb2.FileDescriptorProto, path: Sequence[int]) -> str:
    """Full name of the message or field at a path of descriptor.proto; "" for anything else."""
    if len(path) % 2 or path[:1] != (_MESSAGE_TYPE,):
        return ""
    at: Any = file.message_type[path[1]]
    name = f"{file.package}.{at.name}"
    for kind, index in zip(path[2::2], path[3::2], strict=True):
        if kind not in (_FIELD, _NESTED_TYPE):
            return ""
        at = at.field[index] if kind == _FIELD else at.nested_type[index]
        name += f".{at.name}"
    return name
