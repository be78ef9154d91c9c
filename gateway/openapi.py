"""The OpenAPI document of a list of operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.message import Message
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from trillium.rpc.call import REQUEST_ID_KEY

from .config import LONGEST_TIMEOUT_S, SHORTEST_TIMEOUT_S
from .messages import add_schema
from .operation import JSON, SERVER_STATUSES, Operation, RawBody
from .problems import MEDIA_TYPE, Problem, phrase
from .reading import TIMEOUT_HEADER

_REF = "#/components/schemas/{model}"
_REQUEST_ID = {
    "description": "The id of the request: the caller's own, or a generated one.",
    "schema": {"type": "string"},
}
_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of `trillium token create`. On the machine that the gateway runs on, "
    "its own user needs none.",
}
_HEADERS = (
    {
        "name": TIMEOUT_HEADER,
        "in": "header",
        "description": "Deadline in seconds, also for the services behind the gateway.",
        "schema": {
            "type": "number",
            "minimum": SHORTEST_TIMEOUT_S,
            "maximum": LONGEST_TIMEOUT_S,
        },
    },
    {
        "name": REQUEST_ID_KEY,
        "in": "header",
        "description": "Identifies the request in the log of every service: printable ASCII, at "
        "most 128 characters. Any other value is replaced by a generated id.",
        "schema": {"type": "string"},
    },
)


def document(operations: Sequence[Operation], *, title: str, version: str, about: str) -> Any:
    """The document, as an object for `json.dumps`."""
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
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": _TOKEN},
        },
        # Either: which callers need a token is up to the services behind the gateway.
        "security": [{}, {"token": []}],
    }


def statuses(operation: Operation) -> Sequence[int]:
    """Every status with which the operation may return a problem."""
    found = {400, 403, 421, 429, 500, *operation.refusals}
    if operation.method in ("POST", "PUT"):
        found |= {403, 408, 413, 415, 499}
    if not operation.local:
        found |= set(SERVER_STATUSES)
    return sorted(found)


def _operation(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": _operation_id(operation),
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
    }
    if operation.description:
        described["description"] = operation.description
    if operation.body is not None:
        described["requestBody"] = _body(operation)
    return described


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
    content = _content(_schema(model, {}), operation.body_example)
    return {"required": not operation.body_optional, "content": {JSON: content}}


def _responses(operation: Operation, schemas: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for promise in operation.promises:
        entry = found.setdefault(str(promise.status), _response(promise.description))
        content = _content(_schema(promise.schema, schemas), promise.example)
        entry["content"][promise.media_type] = content
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


def _content(schema: Any, example: Any) -> dict[str, Any]:
    return {"schema": schema} if example is None else {"schema": schema, "example": example}


def _schema(schema: Any, schemas: dict[str, Any]) -> Any:
    """The schema of a protobuf message class, a pydantic model, one of several (a tuple), a list of
    one (in a list), or a schema as it is."""
    if isinstance(schema, list):
        return {"type": "array", "items": _schema(schema[0], schemas)}
    if isinstance(schema, tuple):
        return {"anyOf": [_schema(each, schemas) for each in schema]}
    if isinstance(schema, type) and issubclass(schema, Message):
        return add_schema(schema.DESCRIPTOR, schemas)
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return {"$ref": _REF.format(model=schema.__name__)}
    return schema


def _model_schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The schemas of all pydantic models of bodies and responses, by name."""
    models: dict[type[BaseModel], None] = dict.fromkeys([Problem, *_models(operations)])
    _, schema = models_json_schema([(each, "validation") for each in models], ref_template=_REF)
    found: dict[str, Any] = schema["$defs"]
    return found


def _models(operations: Sequence[Operation]) -> Iterable[type[BaseModel]]:
    for operation in operations:
        schemas: list[Any] = [promise.schema for promise in operation.promises]
        if isinstance(operation.body, RawBody):
            schemas += [each["schema"] for each in operation.body.content.values()]
        else:
            schemas.append(operation.body)
        for each in schemas:
            if isinstance(each, type) and issubclass(each, BaseModel):
                yield each
