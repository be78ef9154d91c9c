"""The predictor's model for clients of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence

from trillium.clock import Clock
from trillium.errors import InvalidRequest, ModelFailed, ModelNotFound, ModelNotLoaded, quoted
from trillium.oip.model import Listed, ModelState, ServedModel
from trillium.rows import Block, Probabilities, are_probabilities
from trillium.rpc.call import Call
from trillium.rpc.uploads import is_name
from trillium.server.statistics import Statistics

from .host import ModelHost
from .lifecycle import SERVING, ModelStage
from .loaded import LoadedModel
from .models_folder import ModelsFolder

_STATES = {
    ModelStage.LOADING: (ModelState.LOADING, "being loaded"),
    ModelStage.READY: (ModelState.READY, ""),
    ModelStage.REPLACING: (ModelState.READY, ""),
    ModelStage.UNLOADING: (ModelState.UNLOADING, "being unloaded"),
}


class PredictorModels:
    """The one model that is loaded, and those that could be."""

    def __init__(
        self, host: ModelHost, folder: ModelsFolder, *, clock: Clock, max_rows: int
    ) -> None:
        self._host = host
        self._folder = folder
        self._clock = clock
        self._max_rows = max_rows

    def find(
        self, name: str, version: int | None = None, sticky_key: str | None = None
    ) -> ServedModel:
        """The loaded model, if that is its name; raises ModelNotFound."""
        description = self._loaded(name).description
        return ServedModel(
            name=description.name,
            platform="onnxruntime_onnx",
            feature_count=description.feature_count,
            class_labels=(description.class_label,),
            max_rows=self._max_rows,
            names_labels=False,
            takes_missing=description.takes_missing,
        )

    def served(self) -> Sequence[ServedModel]:
        """The loaded model, if there is one that serves."""
        description = self._host.description
        serves = description is not None and self._host.state in SERVING
        return [self.find(description.name)] if description and serves else []

    def is_ready(self, name: str, version: int | None = None) -> bool:
        """Whether the loaded model is of that name, and serves."""
        found = [model for model in self.served() if model.name == name]
        return any(version in (None, int(model.version)) for model in found)

    def listed(self) -> Sequence[Listed]:
        """The loaded model, and the artifacts that the predictor can read."""
        description = self._host.description
        found = {
            name: Listed(name, ModelState.UNAVAILABLE, "not loaded") for name in self._folder.names
        }
        if description is not None:
            state, reason = _STATES[self._host.state]
            found[description.name] = Listed(description.name, state, reason)
        return list(found.values())

    def statistics(self, model: ServedModel) -> Statistics:
        """Its statistics since it was loaded."""
        return self._loaded(model.name).statistics

    async def score(
        self, model: ServedModel, block: Block, call: Call, timeout_s: float | None
    ) -> Probabilities:
        """The probabilities of the one class, [n, 1]."""
        loaded = self._loaded(model.name)
        deadline = call.deadline
        if timeout_s is not None:
            deadline = min(deadline, self._clock.monotonic() + timeout_s)
        with loaded:
            scores = await self._host.score(loaded, block, deadline)
        if not are_probabilities(scores):
            raise ModelFailed("the model answered values that are no probabilities")
        return scores[:, None]

    async def load(self, name: str) -> None:
        """Load the artifact of that name from the models folder."""
        if not is_name(name):
            text = f"is {quoted(name)}; expected 1 to 128 letters, digits, '.', '_' and '-'"
            raise InvalidRequest.of("model_name", text)
        artifact, digest, declared = await self._folder.read(name)
        await self._host.load(name, artifact, digest, declared)

    async def unload(self, name: str) -> None:
        """Unload the model, if it is of that name."""
        description = self._host.description
        if description is not None and description.name == name:
            await self._host.unload()
        elif name not in self._folder.names:
            raise ModelNotFound(f"no model {quoted(name)} here; available: {self._available}")

    def _loaded(self, name: str) -> LoadedModel:
        try:
            model = self._host.model
        except ModelNotLoaded as error:
            raise ModelNotFound(f"no model {quoted(name)} is loaded: {error}") from error
        if model.description.name != name:
            raise ModelNotFound(f"no model {quoted(name)} is loaded; loaded: {self._available}")
        return model

    @property
    def _available(self) -> str:
        description = self._host.description
        return "none" if description is None else repr(description.name)
