"""An ensemble for tests of your own: real predictors and a real aggregator in this process.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from trillium.testing import serving
    >>> classifier = LogisticRegression(max_iter=1000).fit(*load_iris(return_X_y=True))
    >>> with serving(classifier) as ensemble:
    ...     print(ensemble.client.classify([5.1, 3.5, 1.4, 0.2]).labels)
    ['0']

As a fixture of pytest, started once for all tests of a session:

    from trillium.testing import ensemble_fixture

    plants = ensemble_fixture("models/iris-*.onnx")


    def test_setosa(plants):
        assert plants.client.classify([5.1, 3.5, 1.4, 0.2]).labels == ["setosa"]

It needs the extras `predictor` and `serve`, and `train` for a classifier that is no ONNX file yet.
"""

from __future__ import annotations

import asyncio
import glob
import importlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from trillium.client.sync import Client
from trillium.server import programs

Models: TypeAlias = str | PathLike[str] | Iterable[str | PathLike[str]] | Any
"""A pattern or paths of ONNX files, or a fitted classifier."""

START_S = 60.0
"""How long a start may take on a busy machine."""
_LOOK_AGAIN_S = 0.01


@dataclass(frozen=True, slots=True)
class ServedEnsemble:
    """An ensemble that serves."""

    address: str
    """Of the aggregator, `host:port` on the loopback."""
    client: Client
    """A blocking client of it."""
    predictors: Sequence[str]
    """The addresses of the predictors, in the order of the models."""


@contextmanager
def serving(models: Models, *, ensemble: str = "test") -> Iterator[ServedEnsemble]:
    """Serve models until the context is left.

    Args:
        models: ONNX files, as a pattern such as "models/iris-*.onnx" or as paths, each with the
            facts that it declares or that are in the JSON file next to it; or a fitted classifier
            of scikit-learn.
        ensemble: name of the ensemble of a classifier.

    Raises:
        FileNotFoundError: there is no such file.
        StartFailed: a model cannot be served.
        TimeoutError: the ensemble does not serve after `START_S` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="trillium-testing-") as folder:
        paths = _paths(models, ensemble, Path(folder))
        with _Loop() as loop:
            stack = AsyncExitStack()
            try:
                address, predictors = loop.run(_start(stack, paths))
                with Client(address) as client:
                    _wait_for(client)
                    yield ServedEnsemble(address, client, predictors)
            finally:
                loop.run(stack.aclose())


def ensemble_fixture(
    models: Models | Callable[[], Models], *, ensemble: str = "test", scope: Any = "session"
) -> Any:
    """A fixture of pytest that is a `ServedEnsemble`; arguments as for `serving`.

    `models` may be a function, so that nothing is trained before a test needs it.
    """
    import pytest

    @pytest.fixture(scope=scope)
    def fixture() -> Iterator[ServedEnsemble]:
        made = models() if callable(models) else models
        with serving(made, ensemble=ensemble) as served:
            yield served

    return fixture


def _paths(models: Models, ensemble: str, folder: Path) -> list[Path]:
    if hasattr(models, "predict"):
        from trillium.training.taking import artifacts_of

        paths = []
        for number, artifact in enumerate(artifacts_of(models, ensemble=ensemble).values()):
            paths.append(folder / f"{ensemble}-{number}.onnx")
            paths[-1].write_bytes(artifact)
        return paths
    if isinstance(models, str):
        found = sorted(map(Path, glob.glob(models)))
    elif isinstance(models, PathLike):
        found = [Path(models)]
    else:
        found = list(map(Path, models))
    missing = [str(path) for path in found if not path.is_file()]
    if missing or not found:
        raise FileNotFoundError(f"no ONNX file: {', '.join(missing) or models}")
    return found


async def _start(stack: AsyncExitStack, paths: Sequence[Path]) -> tuple[str, list[str]]:
    """The addresses of an aggregator and its predictors, which `stack` stops."""
    predictor, its_config = _program("predictor")
    aggregator, config = _program("aggregator")
    endpoint = importlib.import_module(f"{programs.module('aggregator')}.plans.roster").Endpoint
    endpoints, addresses = [], []
    for path in paths:
        settings = its_config.PredictorConfig(listen="127.0.0.1:0", model=path)
        running = await stack.enter_async_context(predictor.running_predictor(settings))
        endpoints.append(endpoint(running.host.description.class_label, running.address))
        addresses.append(running.address)
    settings = config.AggregatorConfig(tuple(endpoints), listen="127.0.0.1:0")
    running = await stack.enter_async_context(aggregator.running_aggregator(settings))
    return running.address, addresses


def _wait_for(client: Client) -> None:
    give_up = time.monotonic() + START_S
    while not client.is_serving():
        if time.monotonic() > give_up:
            raise TimeoutError(f"the ensemble does not serve after {START_S:g} s")
        time.sleep(_LOOK_AGAIN_S)


def _program(name: str) -> tuple[Any, Any]:
    package = programs.module(name)
    return importlib.import_module(f"{package}.app"), importlib.import_module(f"{package}.config")


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="trillium-testing", daemon=True
        )

    def __enter__(self) -> _Loop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_S)
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        """What a coroutine returns or raises, run in the loop."""
        result: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return result.result(2 * START_S)
