"""Our errors with the codes that clients of the Open Inference Protocol act on.

KServe's client tries again on UNAVAILABLE, and only then. So what has not been run gets it, a full
queue too, and what has been run never does.
"""

from __future__ import annotations

from trillium.errors import (
    Code,
    ModelNotFound,
    ModelNotLoaded,
    Overloaded,
    PredictorsFailed,
    TrilliumError,
)


def as_served(error: TrilliumError) -> TrilliumError:
    """The error to answer in the place of `error`, mostly itself."""
    match error:
        case ModelNotLoaded():
            return ModelNotFound(error.message)
        case Overloaded():
            error.code = Code.UNAVAILABLE
        case PredictorsFailed() if error.was_run and error.code is Code.UNAVAILABLE:
            error.code = Code.INTERNAL
    return error
