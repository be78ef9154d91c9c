"""ONNX files as protobuf messages, as far as a predictor must look into one.

The fields are those of onnx.proto with their numbers there. Fields that are not declared here are
kept as they are when a message is parsed and serialized. Every way to a tensor is declared: a test
compares it with the whole schema, which the package `onnx` has. That package weighs 28 MB.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

FLOAT = 1
"""TensorProto.DataType.FLOAT."""
EXTERNAL = 1
"""TensorProto.DataLocation.EXTERNAL."""

_PACKAGE = "trillium_onnx"
# Name, number and type of each field; a star marks a repeated one.
_MESSAGES: Mapping[str, str] = {
    "ModelProto": "graph 7 GraphProto, training_info 20 TrainingInfoProto*, "
    "functions 25 FunctionProto*",
    "TrainingInfoProto": "initialization 1 GraphProto, algorithm 2 GraphProto",
    "FunctionProto": "node 7 NodeProto*, attribute_proto 11 AttributeProto*",
    "GraphProto": "node 1 NodeProto*, initializer 5 TensorProto*, output 12 ValueInfoProto*, "
    "sparse_initializer 15 SparseTensorProto*",
    "NodeProto": "input 1 string*, output 2 string*, name 3 string, op_type 4 string, "
    "attribute 5 AttributeProto*",
    "AttributeProto": "t 5 TensorProto, g 6 GraphProto, ints 8 int64*, strings 9 bytes*, "
    "tensors 10 TensorProto*, graphs 11 GraphProto*, sparse_tensor 22 SparseTensorProto, "
    "sparse_tensors 23 SparseTensorProto*",
    "SparseTensorProto": "values 1 TensorProto, indices 2 TensorProto",
    "TensorProto": "name 8 string, data_location 14 int32",
    "ValueInfoProto": "name 1 string, type 2 TypeProto",
    "TypeProto": "tensor_type 1 Tensor",
    "Tensor": "elem_type 1 int32",
}


@cache
def model_class() -> Any:
    """The class of the message ModelProto."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    # As in onnx.proto itself: proto2, whose strings need not be UTF-8 to be parsed.
    file = descriptor_pb2.FileDescriptorProto(name="onnx", package=_PACKAGE, syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in map(str.split, fields.split(",")):
            field = message.field.add(name=field_name, number=int(number))
            field.label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            plain = kind.removesuffix("*")
            if plain in _MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".{_PACKAGE}.{plain}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()  # Of its own, so that the package `onnx` can be used.
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))
