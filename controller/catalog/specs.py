"""The catalog's models, as deployments need them."""

from __future__ import annotations

from dataclasses import replace

from trillium.errors import ModelNotFound

from ..deployments.document import Deployment, Spec
from ..predictors import Artifact
from .catalog import Catalog


class Library:
    """Answers specs and artifacts."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def spec(self, model: str, version: int) -> Spec:
        """A spec for that version of a model, 0 meaning the newest; raises ModelNotFound."""
        registered, found = await self._catalog.model_version(model, version)
        labels = registered.class_labels
        known = registered.class_label in labels
        return Spec(
            model=registered.name,
            version=found.version,
            digest=found.digest,
            class_label=registered.class_label,
            ensemble=registered.ensemble,
            class_position=labels.index(registered.class_label) if known else 0,
        )

    async def artifact(self, deployment: Deployment, digest: str) -> Artifact:
        """The artifact of that digest of a deployment's model; raises ModelNotFound."""
        name = deployment.spec.model
        registered = await self._catalog.model(name)
        for version in registered.versions:
            if version.digest == digest:
                declared = replace(version.declared, class_label=registered.class_label)
                return Artifact(name, digest, await self._catalog.artifact(digest), declared)
        raise ModelNotFound(f"model {name!r} has no version with digest {digest}")
