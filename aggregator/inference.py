"""The ensemble and its classes, as clients of the Open Inference Protocol ask for them."""

from __future__ import annotations

from collections.abc import Sequence

from trillium.errors import ModelNotFound, NoMetadata, Unsupported, quoted
from trillium.oip.model import Listed, ModelState, ServedModel
from trillium.rows import Block, Probabilities
from trillium.rpc.call import Call
from trillium.server.statistics import Statistics

from .ensemble import Ensemble
from .ensembles import ServedEnsembles
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
        return [EnsembleModels(each) for each in self._ensembles.all()]

    def _having(self, name: str) -> EnsembleModels:
        """Raises ModelNotFound, and NoMetadata while no ensemble is known."""
        there = self._all()
        if not there:
            self._ensembles.chosen("")
        having = [each for each in there if each.has(name) or len(there) == 1]
        if len(having) > 1:
            # The class "b-c" of the ensemble "a" is "a-b-c", as the class "c" of "a-b" is.
            text = f"{quoted(name)} is a model of several ensembles here: ask AggregatorService"
            raise ModelNotFound(text)
        if not having:
            raise no_model(name, [each for models in there for each in models.names()])
        return having[0]

    def find(self, name: str) -> ServedModel:
        """The model of that name; raises ModelNotFound, NoMetadata."""
        return self._having(name).find(name)

    def served(self) -> Sequence[ServedModel]:
        """The ensembles and their classes, once any predictor of theirs was reached."""
        return [model for models in self._all() for model in models.served()]

    def is_ready(self, name: str) -> bool:
        """Whether all classes of that model have a predictor that may be asked."""
        ready = [models.is_ready(name) for models in self._all() if models.has(name)]
        return ready == [True]

    def listed(self) -> Sequence[Listed]:
        """Each ensemble, followed by its classes."""
        return [each for models in self._all() for each in models.listed()]

    def statistics(self, model: ServedModel) -> Statistics:
        """What was asked of it since the aggregator started."""
        return self._having(model.name).statistics(model)

    async def score(
        self, model: ServedModel, block: Block, call: Call, timeout_s: float | None
    ) -> Probabilities:
        """The probabilities of the model's classes; as for Predict, all of them or an error."""
        return await self._having(model.name).score(model, block, call, timeout_s)

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
    """A model for the whole ensemble ("iris"), and one for each class ("iris-setosa")."""

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    def find(self, name: str) -> ServedModel:
        """The model of that name; raises ModelNotFound, NoMetadata."""
        feature_count = self._ensemble.metadata.feature_count
        labels = self._labels(name)
        if labels is None:
            raise no_model(name, self.names())
        whole = name == self._name
        return ServedModel(
            name=name,
            platform="trillium_ensemble" if whole else "onnxruntime_onnx",
            feature_count=feature_count,
            class_labels=tuple(labels),
            max_rows=self._ensemble.limits.max_rows,
            names_labels=whole,
            takes_missing=self._ensemble.metadata.takes_missing,
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
            waited = [label for label in self._ensemble.class_labels if not self._is_ready(label)]
            reason = f"not ready: {', '.join(waited)}" if waited else "no class is known yet"
            whole = Listed(self._name, ModelState.UNAVAILABLE, reason)
        classes = [
            Listed(
                self._class_name(label),
                self._state(label),
                "" if self._is_ready(label) else self._ensemble.roster.why_not(label),
            )
            for label in self._ensemble.class_labels
        ]
        return [whole, *classes]

    def statistics(self, model: ServedModel) -> Statistics:
        """What was asked of it since the aggregator started."""
        return self._ensemble.statistics(model.class_labels)

    async def score(
        self, model: ServedModel, block: Block, call: Call, timeout_s: float | None
    ) -> Probabilities:
        """The probabilities of the model's classes; as for Predict, all of them or an error."""
        scores = await self._ensemble.scores(block, model.class_labels, call, timeout_s)
        return scores.probabilities

    def has(self, name: str) -> bool:
        """Whether a model has that name."""
        return self._labels(name) is not None

    @property
    def _name(self) -> str:
        return self._ensemble.name or NAMELESS

    def _class_name(self, label: str) -> str:
        return f"{self._name}-{label}"

    def names(self) -> Sequence[str]:
        """The ensemble's name, then those of its classes."""
        return [self._name, *map(self._class_name, self._ensemble.class_labels)]

    def _labels(self, name: str) -> Sequence[str] | None:
        """The classes of the model of that name; None if there is no such model."""
        known = self._ensemble.class_labels
        if name == self._name:
            return known
        label = name.removeprefix(f"{self._name}-")
        return (label,) if label in known and label != name else None

    def _is_ready(self, label: str) -> bool:
        return self._state(label) is ModelState.READY

    def _state(self, label: str) -> ModelState:
        states = {entry.state for entry in self._ensemble.roster.of(label)}
        if LinkState.READY in states:
            return ModelState.READY
        return ModelState.LOADING if LinkState.CONNECTING in states else ModelState.UNAVAILABLE
