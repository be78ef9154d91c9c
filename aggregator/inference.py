"""The ensemble and its classes, as clients of the Open Inference Protocol ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from trillium.errors import ModelNotFound, NoMetadata, Unsupported, quoted
from trillium.oip.model import VERSION, Listed, ModelState, ServedModel
from trillium.rows import Block, Probabilities
from trillium.rpc.call import Call
from trillium.server.statistics import Statistics

from .ensemble import Ensemble
from .ensembles import ServedEnsembles
from .plan import ServingPlan
from .plans.roster import LinkState

NAMELESS = "ensemble"
"""The name of an ensemble whose models do not declare one."""
_SHOWN = 12
_ELSEWHERE = "an aggregator loads no models: ask the controller, or the predictor itself"


class ServedModels:
    """The models of all ensembles."""

    def __init__(self, ensembles: ServedEnsembles) -> None:
        self._ensembles = ensembles

    def _all(self) -> list[EnsembleModels]:
        """Of each ensemble the plan with most requests."""
        there = [(each, each.plans) for each in self._ensembles.all()]
        return [EnsembleModels(each, plans[0]) for each, plans in there if plans]

    def _having(
        self, name: str, version: int | None = None, sticky_key: str | None = None
    ) -> EnsembleModels:
        """Raises ModelNotFound, and NoMetadata while no ensemble is known."""
        there = self._all()
        if not there:
            self._ensembles.chosen("").plan()
        having = [each for each in there if each.has(name, version) or len(there) == 1]
        if len(having) > 1:
            # The class "b-c" of the ensemble "a" is "a-b-c", as the class "c" of "a-b" is.
            text = f"{quoted(name)} is a model of several ensembles here: ask AggregatorService"
            raise ModelNotFound(text)
        if not having:
            raise no_model(name, [each for models in there for each in models.names()])
        return having[0].version(version, sticky_key)

    def find(
        self, name: str, version: int | None = None, sticky_key: str | None = None
    ) -> ServedModel:
        """The model of that name; raises ModelNotFound, NoMetadata."""
        return self._having(name, version, sticky_key).find(name)

    def served(self) -> Sequence[ServedModel]:
        """The ensembles and their classes, once any predictor of theirs was reached."""
        return [model for models in self._all() for model in models.served()]

    def is_ready(self, name: str, version: int | None = None) -> bool:
        """Whether all classes of that model have a predictor that may be asked."""
        having = [models for models in self._all() if models.has(name, version)]
        if len(having) != 1:
            return False
        found = having[0].version(version, None)
        return version in (None, int(found.number)) and found.is_ready(name)

    def listed(self) -> Sequence[Listed]:
        """Each ensemble, followed by its classes."""
        return [each for models in self._all() for each in models.listed()]

    def statistics(self, model: ServedModel) -> Statistics:
        """What was asked of it since the aggregator started."""
        return self._having(model.name, int(model.version)).statistics(model)

    async def score(
        self, model: ServedModel, block: Block, call: Call, timeout_s: float | None
    ) -> Probabilities:
        """The probabilities of the model's classes; as for Predict, all of them or an error."""
        having = self._having(model.name, int(model.version))
        return await having.score(model, block, call, timeout_s)

    async def load(self, name: str) -> None:
        """Raises Unsupported."""
        raise Unsupported(f"cannot load {quoted(name)}: {_ELSEWHERE}")

    async def unload(self, name: str) -> None:
        """Raises Unsupported."""
        raise Unsupported(f"cannot unload {quoted(name)}: {_ELSEWHERE}")


def no_model(name: str, names: Sequence[str]) -> ModelNotFound:
    """That none of `names` is the one that was asked for."""
    there = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return ModelNotFound(f"no model {quoted(name)} here; there are {there}")


class EnsembleModels:
    """A model for the whole ensemble ("iris"), and one for each class ("iris-setosa"), as one
    revision has them, whose number is their version."""

    def __init__(self, ensemble: Ensemble, plan: ServingPlan) -> None:
        self._ensemble = ensemble
        self._plan = plan

    @property
    def number(self) -> str:
        """The version of the models."""
        return _version(self._plan)

    def version(self, number: int | None, sticky_key: str | None) -> EnsembleModels:
        """The models of that version; of None those that a request gets. If there is no such
        version, these."""
        for plan in self._ensemble.plans:
            if number is not None and number == int(_version(plan)):
                return EnsembleModels(self._ensemble, plan)
        if number is None and sticky_key is not None:
            return EnsembleModels(self._ensemble, self._ensemble.plan(0, sticky_key))
        return self

    def find(self, name: str) -> ServedModel:
        """The model of that name; raises ModelNotFound, NoMetadata."""
        feature_count = self._plan.metadata.feature_count
        labels = self._labels(name)
        if labels is None:
            raise no_model(name, self.names())
        whole = name == self._name
        return ServedModel(
            name=name,
            platform="trillium_ensemble" if whole else "onnxruntime_onnx",
            feature_count=feature_count,
            class_labels=tuple(labels),
            max_rows=self._plan.limits.max_rows,
            names_labels=whole,
            takes_missing=self._plan.metadata.takes_missing,
            version=self.number,
            versions=tuple(sorted(map(_version, self._ensemble.plans), key=int)),
        )

    def served(self) -> Sequence[ServedModel]:
        """The ensemble and its classes, once any predictor was reached."""
        try:
            return [self.find(name) for name in self.names()]
        except NoMetadata:
            return []

    def is_ready(self, name: str) -> bool:
        """Whether all classes of that model have a predictor that may be asked."""
        labels = self._labels(name) or ()
        return bool(labels) and all(map(self._is_ready, labels))

    def listed(self) -> Sequence[Listed]:
        """The ensemble, then its classes."""
        whole = Listed(self._name, ModelState.READY)
        if not self.is_ready(self._name):
            waited = [label for label in self._plan.class_labels if not self._is_ready(label)]
            reason = f"not ready: {', '.join(waited)}" if waited else "no class is known yet"
            whole = Listed(self._name, ModelState.UNAVAILABLE, reason)
        classes = [
            Listed(
                self._class_name(label),
                self._state(label),
                "" if self._is_ready(label) else self._plan.roster.why_not(label),
            )
            for label in self._plan.class_labels
        ]
        return [whole, *classes]

    def statistics(self, model: ServedModel) -> Statistics:
        """What was asked of it since the aggregator started."""
        return self._plan.statistics(model.class_labels)

    async def score(
        self, model: ServedModel, block: Block, call: Call, timeout_s: float | None
    ) -> Probabilities:
        """The probabilities of the model's classes; as for Predict, all of them or an error."""
        scores = await self._plan.scores(block, model.class_labels, call, timeout_s)
        return scores.probabilities

    def has(self, name: str, version: int | None = None) -> bool:
        """Whether a model has that name, here or in that version."""
        return any(each._labels(name) is not None for each in (self, self.version(version, None)))

    @property
    def _name(self) -> str:
        return self._ensemble.name or NAMELESS

    def _class_name(self, label: str) -> str:
        return f"{self._name}-{label}"

    def names(self) -> Sequence[str]:
        """The ensemble's name, then those of its classes."""
        return [self._name, *map(self._class_name, self._plan.class_labels)]

    def _labels(self, name: str) -> Sequence[str] | None:
        """The classes of the model of that name; None if there is no such model."""
        known = self._plan.class_labels
        if name == self._name:
            return known
        label = name.removeprefix(f"{self._name}-")
        return (label,) if label in known and label != name else None

    def _is_ready(self, label: str) -> bool:
        return self._state(label) is ModelState.READY

    def _state(self, label: str) -> ModelState:
        states = {entry.state for entry in self._plan.roster.of(label)}
        if LinkState.READY in states:
            return ModelState.READY
        return ModelState.LOADING if LinkState.CONNECTING in states else ModelState.UNAVAILABLE


def _version(plan: ServingPlan) -> str:
    return str(plan.revision or VERSION)
