"""Trillium serves a classifier as one binary model for each class, each behind gRPC.

    >>> import trillium
    >>> with trillium.Client("127.0.0.1:50051") as client:
    ...     client.classify([[5.1, 3.5, 1.4, 0.2]]).labels
    array(['setosa'], dtype=object)

The names below are imported when they are first used, so that importing a stub or an error stays
quick and needs neither numpy nor grpc.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trillium.client.aio import AsyncClient
    from trillium.client.answers import (
        Classifications,
        EnsembleSummary,
        Metadata,
        Predictions,
        PredictorState,
        PredictorStatus,
        SampleScore,
    )
    from trillium.client.controller import AsyncControllerClient, ControllerClient
    from trillium.client.sync import Client
    from trillium.errors import (
        Cancelled,
        ClassFailure,
        Code,
        DatasetNotFound,
        DeadlineExceeded,
        DeploymentExists,
        DeploymentFailed,
        DeploymentNotFound,
        DigestMismatch,
        Draining,
        EnsembleChanged,
        EnsembleFailed,
        EnsembleNotFound,
        IllegalStep,
        InternalError,
        InUse,
        InvalidRequest,
        MalformedMessage,
        ModelBusy,
        ModelFailed,
        ModelNotFound,
        ModelNotLoaded,
        ModelRejected,
        NoMetadata,
        NoSample,
        Overloaded,
        Overtaken,
        PermissionDenied,
        Phase,
        PredictorsFailed,
        RecordUnreadable,
        RemoteError,
        RequestIdReused,
        RevisionNotFound,
        RunExists,
        RunNotFound,
        StoreDown,
        Superseded,
        TrilliumError,
        Unauthenticated,
        Unreachable,
        Violation,
    )

    __version__: str

__all__ = [
    "AsyncClient",
    "AsyncControllerClient",
    "Cancelled",
    "ClassFailure",
    "Classifications",
    "Client",
    "Code",
    "ControllerClient",
    "DatasetNotFound",
    "DeadlineExceeded",
    "DeploymentExists",
    "DeploymentFailed",
    "DeploymentNotFound",
    "DigestMismatch",
    "Draining",
    "EnsembleChanged",
    "EnsembleFailed",
    "EnsembleNotFound",
    "EnsembleSummary",
    "IllegalStep",
    "InUse",
    "InternalError",
    "InvalidRequest",
    "MalformedMessage",
    "Metadata",
    "ModelBusy",
    "ModelFailed",
    "ModelNotFound",
    "ModelNotLoaded",
    "ModelRejected",
    "NoMetadata",
    "NoSample",
    "Overloaded",
    "Overtaken",
    "PermissionDenied",
    "Phase",
    "Predictions",
    "PredictorState",
    "PredictorStatus",
    "PredictorsFailed",
    "RecordUnreadable",
    "RemoteError",
    "RequestIdReused",
    "RevisionNotFound",
    "RunExists",
    "RunNotFound",
    "SampleScore",
    "StoreDown",
    "Superseded",
    "TrilliumError",
    "Unauthenticated",
    "Unreachable",
    "Violation",
    "__version__",
]

_HOMES = {
    "AsyncClient": "trillium.client.aio",
    "AsyncControllerClient": "trillium.client.controller",
    "Classifications": "trillium.client.answers",
    "Client": "trillium.client.sync",
    "ControllerClient": "trillium.client.controller",
    "Metadata": "trillium.client.answers",
    "Predictions": "trillium.client.answers",
    "PredictorState": "trillium.client.answers",
    "EnsembleSummary": "trillium.client.answers",
    "PredictorStatus": "trillium.client.answers",
    "SampleScore": "trillium.client.answers",
}
"""Where the names of `__all__` are that are not in `trillium.errors`."""


def __getattr__(name: str) -> Any:
    """Import what is asked for, and remember it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "__version__":
        value: Any = _version()
    else:
        value = getattr(importlib.import_module(_HOMES.get(name, "trillium.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("trillium")
    except PackageNotFoundError:  # a bare checkout on the path
        return "0+unknown"
