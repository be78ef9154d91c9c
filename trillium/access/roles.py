"""Roles, and the one table of the role that each RPC needs. What is not in the table is denied."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do. Each role includes those before it, except that `service` includes
    `infer` alone."""

    NONE = "none"
    """Only what is open to all."""
    INFER = "infer"
    """Score rows, and read what an ensemble expects."""
    VIEW = "view"
    """Read everything, results included."""
    OPERATE = "operate"
    """Change ensembles, deployments and runs."""
    SERVICE = "service"
    """What Trillium's own servers do with each other."""
    ADMIN = "admin"
    """Everything."""

    def includes(self, needed: Role) -> bool:
        """Whether whoever has this role may do what needs that one."""
        return needed in _INCLUDED[self]


_INCLUDED: Mapping[Role, frozenset[Role]] = {
    Role.NONE: frozenset({Role.NONE}),
    Role.INFER: frozenset({Role.NONE, Role.INFER}),
    Role.VIEW: frozenset({Role.NONE, Role.INFER, Role.VIEW}),
    Role.OPERATE: frozenset({Role.NONE, Role.INFER, Role.VIEW, Role.OPERATE}),
    Role.SERVICE: frozenset({Role.NONE, Role.INFER, Role.SERVICE}),
    Role.ADMIN: frozenset(Role),
}


def _paths(service: str, roles: Mapping[Role, str]) -> dict[str, Role]:
    """The roles of a service's RPCs, from their names with spaces between them."""
    return {f"/{service}/{rpc}": role for role, rpcs in roles.items() for rpc in rpcs.split()}


RULES: Mapping[str, Role] = {
    **_paths("grpc.health.v1.Health", {Role.NONE: "Check Watch"}),
    **_paths("grpc.reflection.v1alpha.ServerReflection", {Role.INFER: "ServerReflectionInfo"}),
    **_paths(
        "trillium.aggregator.v1.AggregatorService",
        {
            # The lists name classes and whether they are ready, which failures of a row do, too.
            Role.INFER: "Predict Classify PredictSample PredictStream GetMetadata ListEnsembles "
            "ListPredictors"
        },
    ),
    **_paths("trillium.predictor.v1.PredictorService", {Role.INFER: "Predict PredictStream"}),
    **_paths(
        "trillium.predictor.v1.ModelService",
        {Role.INFER: "GetModel", Role.SERVICE: "LoadModel UnloadModel"},
    ),
    **_paths(
        "inference.GRPCInferenceService",
        {
            Role.NONE: "ServerLive ServerReady",
            Role.INFER: "ModelReady ServerMetadata ModelMetadata ModelInfer ModelStreamInfer "
            "ModelConfig",
            Role.VIEW: "ModelStatistics RepositoryIndex",
            Role.SERVICE: "RepositoryModelLoad RepositoryModelUnload",
        },
    ),
    **_paths("trillium.controller.v1.DiscoveryService", {Role.SERVICE: "WatchEndpoints"}),
    **_paths(
        "trillium.controller.v1.ControllerService",
        {
            Role.VIEW: "GetDeployment ListDeployments WatchDeployments ListDeploymentEvents "
            "ListServers",
            Role.OPERATE: "CreateDeployment LoadDeployment UpdateDeployment UnloadDeployment "
            "TerminateDeployment",
        },
    ),
    **_paths(
        "trillium.controller.v1.EnsembleService",
        {
            Role.VIEW: "PlanEnsemble GetEnsemble ListEnsembles ListEnsembleRevisions "
            "GetEnsembleRevision",
            Role.OPERATE: "ApplyEnsemble RollBackEnsemble UpdateEnsemble DeleteEnsemble",
        },
    ),
    **_paths(
        "trillium.controller.v1.RunService",
        {
            Role.VIEW: "GetRun ListRuns WatchRun ListResults StreamResults",
            Role.OPERATE: "CreateRun CancelRun DeleteRun",
        },
    ),
    **_paths(
        "trillium.controller.v1.CatalogService",
        {
            Role.VIEW: "ListModels ListRefusedModels ListDatasets",
            Role.ADMIN: "RegisterModel DeleteModel DeleteModelVersion RegisterDataset "
            "DeleteDataset",
        },
    ),
}
"""The role that each RPC needs, by its path. NONE is open to all."""

CHANGES = frozenset(
    path
    for path, role in RULES.items()
    if role in (Role.OPERATE, Role.ADMIN)
    or path.endswith(("/LoadModel", "/UnloadModel", "/RepositoryModelLoad"))
    or path.endswith("/RepositoryModelUnload")
)
"""RPCs that change something: each call of them is in the log, with the caller's name."""
