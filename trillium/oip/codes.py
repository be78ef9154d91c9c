"""Our errors with the codes that clients of the Open Inference Protocol act on.

KServe's client tries again on UNAVAILABLE, and only then. So what has not been run gets it, a full
queue too, and what has been run never does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trillium.errors import Code, ModelNotFound, ModelNotLoaded, Overloaded, PredictorsFailed


@contextmanager
def served_codes() -> Iterator[None]:
    """Let what is raised inside have the codes of the protocol.

    An error that keeps its kind goes on as it is. To raise it from itself would make it its own
    cause, and a cycle that keeps the request until a garbage collection.
    """
    try:
        yield
    except ModelNotLoaded as error:
        raise ModelNotFound(error.message) from error
    except Overloaded as error:
        error.code = Code.UNAVAILABLE
        raise
    except PredictorsFailed as error:
        if error.was_run and error.code is Code.UNAVAILABLE:
            error.code = Code.INTERNAL
        raise
