"""Lists of JSON in which the search for errors ends at a limit.

pydantic creates an error of several hundred bytes for every invalid value: a body of three
megabytes of invalid values would take a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from trillium.violations import MAX_VIOLATIONS

CHUNK = 256
"""Number of items that are checked together, and one by one only if one of them is invalid."""

Check = Callable[[list[Any]], Any]
"""Raises ValidationError with the first error of a list."""


class FewErrors:
    """Annotates a list, or a list of lists: only its first `MAX_VIOLATIONS` errors are reported.

    A valid list costs one call of Python.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = _failing_fast(handler(source))
        return core_schema.no_info_wrap_validator_function(_checked, schema)


class FirstError:
    """Annotates a list, or a list of lists: only its first error is reported."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema: CoreSchema = _failing_fast(handler(source))
        return schema


def few_unknown_keys(model: type[BaseModel], value: Any) -> Any:
    """`value` with at most `MAX_VIOLATIONS` of the keys that `model` does not know."""
    known = model.model_fields
    if not isinstance(value, dict) or len(value) <= len(known) + MAX_VIOLATIONS:
        return value
    unknown = islice((key for key in value if key not in known), MAX_VIOLATIONS)
    return {key: value[key] for key in (*(known.keys() & value.keys()), *unknown)}


def _failing_fast(schema: Any) -> Any:
    """The schema of a list, changed to stop at the first error on every level."""
    if schema["type"] != "list":
        return schema
    items = _failing_fast(schema["items_schema"])
    return {**schema, "items_schema": items, "fail_fast": True}


def _checked(value: Any, check: Check) -> Any:
    try:
        return check(value)
    except ValidationError as error:
        if not isinstance(value, list) or not error.errors(include_url=False)[0]["loc"]:
            raise
        title = error.title
    raise ValidationError.from_exception_data(
        title, list(islice(_wrong(value, check), MAX_VIOLATIONS))
    )


def _wrong(values: list[Any], check: Check) -> Iterator[InitErrorDetails]:
    """The errors of the items of `values`, in order."""
    for index, errors in _wrong_items(values, check):
        item = values[index]
        if isinstance(item, list) and errors[0]["loc"][1:]:
            # The item is a list, too, and may have more errors than this one.
            for column, inner in _wrong_items(item, lambda part: check([part])):
                yield from (_details(each, (index, column, *each["loc"][2:])) for each in inner)
        else:
            yield from (_details(each, (index, *each["loc"][1:])) for each in errors)


def _wrong_items(values: list[Any], check: Check) -> Iterator[tuple[int, list[Any]]]:
    """The index of each invalid item of `values`, with the errors of that item."""
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        if not _errors(chunk, check):
            continue
        for index, item in enumerate(chunk, start):
            if errors := _errors([item], check):
                yield index, errors


def _errors(values: list[Any], check: Check) -> list[Any]:
    """The errors of the first invalid item."""
    try:
        check(values)
    except ValidationError as error:
        return list(error.errors(include_url=False))
    return []


def _details(error: Any, loc: tuple[int | str, ...]) -> InitErrorDetails:
    return InitErrorDetails(
        type=error["type"], loc=loc, input=error["input"], ctx=error.get("ctx", {})
    )
