"""The OpenAPI document of a list of operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from gateway.config import LONGEST_TIMEOUT_S, SHORTEST_TIMEOUT_S
from gateway.messages import add_schema
from gateway.operation import JSON, SERVER_STATUSES, Operation, Promise, RawBody
from gateway.problems import MEDIA_TYPE, Problem, phrase
from gateway.reading import TIMEOUT_HEADER
from trillium.rpc.call import REQUEST_ID_KEY

_REF = "#/components/schemas/{model}"
_REQUEST_ID = {
    "description": "The id of the request: the caller's own, or one that was made up.",
    "schema": {"type": "string"},
}
_HEADERS = (
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "description": "Seconds that the request may take; the work behind it ends then, too.",
        "schema": {
            "type": "number",
            "minimum": SHORTEST_TIMEOUT_S,
            "maximum": LONGEST_TIMEOUT_S,
        },
    },
    {
        "name": REQUEST_ID_KEY,
        "in": "header",
        "description": "An id to find the request by in every service's log: printable ASCII, at "
        "most 128 characters. Another one is made up instead of what is not that.",
        "schema": {"type": "string"},
    },
)


def document(operations: Sequence[Operation], *, title: str, version: str, about: str) -> Any:
    """The document, as `json.dumps` takes it."""
    shown = [each for each in operations if not each.hidden]
    schemas = _model_schemas(shown)
    paths: dict[str, Any] = {}
    for each in shown:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schemas)
    tags = list(dict.fromkeys(each.tag for each in shown))
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": about},
        "tags": [{"name": tag} for tag in tags],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def statuses(operation: Operation) -> Sequence[int]:
    """Every status of a problem that the operation may answer."""
    found = {400, 403, 421, 429, 500, *operation.refusals}
    if operation.method == "POST":
        found |= {403, 408, 413, 415, 499}
    if not operation.local:
        found |= set(SERVER_STATUSES)
    return sorted(found)


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": _operation_id(operation),
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
    }
    if operation.description:
        told["description"] = operation.description
    if operation.body is not None:
        told["requestBody"] = _body(operation)
    return told


def _operation_id(operation: Operation) -> str:
    words = [word for word in operation.path.replace(":", "/").split("/") if word]
    return "_".join([operation.method.lower(), *words]).replace("{", "").replace("}", "")


def _parameters(operation: Operation) -> list[Any]:
    found: list[Any] = [
        {
            "name": each.name,
            "in": "path",
            "required": True,
            "description": each.description,
            "schema": {"type": "string", "pattern": each.pattern},
            "example": each.example,
        }
        for each in operation.parameters
    ]
    if operation.query is not None:
        schema = operation.query.model_json_schema()
        for name, each in schema["properties"].items():
            described = {key: value for key, value in each.items() if key != "title"}
            parameter = {"name": name, "in": "query", "schema": described}
            if "description" in described:
                parameter["description"] = described.pop("description")
            found.append(parameter)
    return [*found, *_HEADERS]


def _body(operation: Operation) -> dict[str, Any]:
    model = operation.body
    if isinstance(model, RawBody):
        content = {
            media: {**each, "schema": _schema(each["schema"], {})}
            for media, each in model.content.items()
        }
        return {"required": True, "description": model.description, "content": content}
    told: dict[str, Any] = {"schema": _schema(model, {})}
    if operation.body_example is not None:
        told["example"] = operation.body_example
    return {"required": not operation.body_optional, "content": {JSON: told}}


def _responses(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for promise in operation.promises:
        entry = found.setdefault(str(promise.status), _response(promise.description))
        entry["content"][promise.media_type] = _promised(promise, schemas)
    problem = {"schema": {"$ref": _REF.format(model="Problem")}}
    for status in statuses(operation):
        entry = found.setdefault(str(status), _response(phrase(status)))
        entry["content"][MEDIA_TYPE] = problem
    return dict(sorted(found.items()))


def _response(description: str) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {REQUEST_ID_KEY: _REQUEST_ID},
        "content": {},
    }


def _promised(promise: Promise, schemas: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"schema": _schema(promise.schema, schemas)}
    if promise.example is not None:
        told["example"] = promise.example
    return told


def _schema(schema: Any, schemas: dict[str, Any]) -> Any:
    """The schema of a protobuf message class, a pydantic model, one of several, or itself."""
    if isinstance(schema, tuple):
        return {"anyOf": [_schema(each, schemas) for each in schema]}
    if isinstance(schema, type) and issubclass(schema, Message):
        return add_schema(schema.DESCRIPTOR, schemas)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {"$ref": _REF.format(model=schema.__name__)}
    return schema


def _model_schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The schemas of all pydantic models that bodies and answers are made of, by name."""
    models: dict[type[BaseModel], None] = dict.fromkeys([Problem, *_models(operations)])
    _, schema = models_json_schema([(each, "validation") for each in models], ref_template=_REF)
    found: dict[str, Any] = schema["$defs"]
    return found


def _models(operations: Sequence[Operation]) -> Iterable[type[BaseModel]]:
    for operation in operations:
        said: list[Any] = [promise.schema for promise in operation.promises]
        if isinstance(operation.body, RawBody):
            said += [each["schema"] for each in operation.body.content.values()]
        else:
            said.append(operation.body)
        for each in said:
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield each
