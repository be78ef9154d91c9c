"""What an engine's errors mean: one table for all of them."""

from __future__ import annotations

from enum import Enum

import requests
from docker.errors import APIError

from .docker_settings import DockerSettings
from .port import RuntimeUnreachable


class Meaning(Enum):
    """What an error answer of the engine means."""

    GONE = "gone"
    """There is no such container, or there will not be one in a moment."""
    TAKEN = "taken"
    """Another container has that name."""
    NO_IMAGE = "no image"
    REFUSED = "refused"
    """It will not do that, and asking again does not help."""
    OTHER_VERSION = "other version"
    """It does not speak our version of the API: it was replaced by another one."""
    UNABLE = "unable"
    """It could not do that now."""


_TABLE: tuple[tuple[int, str, Meaning], ...] = (
    # The first line whose status is that of the answer, and whose words are in it, counts. A 304
    # ("stopped already", "started already") is no error to begin with.
    (400, "client version", Meaning.OTHER_VERSION),
    (400, "", Meaning.REFUSED),
    (403, "", Meaning.REFUSED),
    (404, "no such container", Meaning.GONE),
    (404, "no such image", Meaning.NO_IMAGE),
    (404, "", Meaning.REFUSED),  # no such network, for example
    (409, "already in use", Meaning.TAKEN),
    (409, "removal of container", Meaning.GONE),  # "is already in progress"
    (409, "marked for removal", Meaning.GONE),
    (409, "", Meaning.UNABLE),
    # From containerd and runc: the container's parts do not fit together.
    (500, "oci runtime create failed", Meaning.REFUSED),
    (500, "range of cpus", Meaning.REFUSED),
)


def explanation_of(error: APIError) -> str:
    """The engine's own words, on one line."""
    return " ".join(str(error.explanation or error).split())


def meaning_of(error: APIError) -> Meaning:
    """What an error answer means, whatever was asked."""
    words = explanation_of(error).lower()
    for status, fragment, meaning in _TABLE:
        if error.status_code == status and fragment in words:
            return meaning
    return Meaning.UNABLE


def unreachable(error: Exception, settings: DockerSettings) -> RuntimeUnreachable:
    """The port's error for anything that came from the library or from below it.

    Time-outs and broken connections are errors of `requests` there, not of the library.
    """
    where = settings.base_url
    if isinstance(error, APIError):
        text = f"the engine at {where} answered {error.status_code}: {explanation_of(error)}"
    elif isinstance(error, requests.exceptions.Timeout | TimeoutError):
        text = f"the engine at {where} did not answer within {settings.timeout_s} s"
    elif isinstance(error, requests.exceptions.ConnectionError | ConnectionError):
        text = f"no engine answers at {where}"
    elif isinstance(error, FileNotFoundError):
        text = f"no engine answers at {where}: there is no such socket"
    else:
        text = f"the engine at {where} cannot be used: {error}"
    return RuntimeUnreachable(text)
