"""Lists of JSON whose errors are looked for up to a limit, and no further.

pydantic makes an error of several hundred bytes for every wrong value: a body of three megabytes
of wrong values would take a gigabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from trillium.rows import MAX_VIOLATIONS

CHUNK = 256
"""So many items are looked at together, and one by one only if one of them is wrong."""

Check = Callable[[list[Any]], Any]
"""Raises ValidationError with the first thing that is wrong in a list."""


class FewErrors:
    """Annotates a list, or a list of lists: its first `MAX_VIOLATIONS` errors are all there are.

    What is right costs one call of Python for the whole list.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = _failing_fast(handler(source))
        return core_schema.no_info_wrap_validator_function(_checked, schema)


class FirstError:
    """Annotates a list, or a list of lists: its first error is the only one."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema: CoreSchema = _failing_fast(handler(source))
        return schema


def few_unknown_keys(model: type[BaseModel], value: Any) -> Any:
    """`value` with no more than `MAX_VIOLATIONS` keys that `model` does not know."""
    known = model.model_fields
    if not isinstance(value, dict) or len(value) <= len(known) + MAX_VIOLATIONS:
        return value
    unknown = islice((key for key in value if key not in known), MAX_VIOLATIONS)
    return {key: value[key] for key in (*(known.keys() & value.keys()), *unknown)}


def _failing_fast(schema: Any) -> Any:
    """The schema of a list, which is to stop at its first error on every level."""
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
    """What is wrong with the items of `values`, in their order."""
    for index, errors in _wrong_items(values, check):
        item = values[index]
        if isinstance(item, list) and errors[0]["loc"][1:]:
            # The item is a list, too, and may have more that is wrong than this.
            for column, inner in _wrong_items(item, lambda part: check([part])):
                yield from (_details(each, (index, column, *each["loc"][2:])) for each in inner)
        else:
            yield from (_details(each, (index, *each["loc"][1:])) for each in errors)


def _wrong_items(values: list[Any], check: Check) -> Iterator[tuple[int, list[Any]]]:
    """The index of each wrong item of `values`, and the errors of it alone."""
    for start in range(0, len(values), CHUNK):
        chunk = values[start : start + CHUNK]
        if not _errors(chunk, check):
            continue
        for index, item in enumerate(chunk, start):
            if errors := _errors([item], check):
                yield index, errors


def _errors(values: list[Any], check: Check) -> list[Any]:
    """The errors of the first wrong item."""
    try:
        check(values)
    except ValidationError as error:
        return list(error.errors(include_url=False))
    return []


def _details(error: Any, loc: tuple[int | str, ...]) -> InitErrorDetails:
    return InitErrorDetails(
        type=error["type"], loc=loc, input=error["input"], ctx=error.get("ctx", {})
    )
