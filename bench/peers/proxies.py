"""The peers that are written in Python, each as a service for each class and one that asks them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.peers import messages
from bench.processes import ROOT, free_port, running
from bench.systems import known
from bench.systems.known import Up
from bench.systems.naive import LABELS

_MLSERVER_BATCH = {"max_batch_size": 64, "max_batch_time": 0.0005}


def _python(environment: Path, module: str, *words: str | int | Path) -> list[str]:
    return [f"{environment}/bin/python", "-m", f"bench.peers.servers.{module}", *map(str, words)]


def _json(name: str, port: int, path: str, pids: list[int]) -> Up:
    return Up(
        name,
        f"127.0.0.1:{port}",
        tuple(pids),
        path,
        messages.json_request,
        messages.json_probabilities,
        messages.json_labels,
        plain_http=True,
    )


def inference(name: str, port: int, pids: list[int]) -> Up:
    """A system that speaks the Open Inference Protocol."""
    return Up(
        name,
        f"127.0.0.1:{port}",
        tuple(pids),
        messages.INFER,
        messages.inference_request,
        messages.inference_probabilities,
        messages.inference_labels,
    )


def _models(models: Path) -> Mapping[str, Path]:
    return {label: models.resolve() / f"iris-{label}.onnx" for label in LABELS}


@contextmanager
def _fastapi(clients: str, environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    name = "fastapi" if clients == "each" else f"fastapi-{clients}"
    port, ports = free_port(), {label: free_port() for label in LABELS}
    commands = [
        _python(environment, "fastapi_class", ports[label], path)
        for label, path in _models(models).items()
    ]
    urls = [f"http://127.0.0.1:{each}/predict" for each in ports.values()]
    front = _python(environment, "fastapi_front", port, clients, *urls)
    with running(front, *commands, log=folder / f"{name}.log") as pids:
        yield _json(name, port, "/classify", pids)


fastapi = partial(_fastapi, "each")
"""A client of httpx for each request, as the older system had it."""
fastapi_shared = partial(_fastapi, "shared")
"""One client of httpx for all requests."""


@contextmanager
def kserve(environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    """Four of KServe's model servers."""
    port, ports = free_port(), {label: free_port() for label in LABELS}
    commands = [
        _python(environment, "kserve_class", ports[label], free_port(), label, path)
        for label, path in _models(models).items()
    ]
    addresses = [f"127.0.0.1:{each}" for each in ports.values()]
    front = _python(environment, "kserve_front", port, free_port(), *addresses)
    with running(front, *commands, log=folder / "kserve.log") as pids:
        yield inference("kserve", port, pids)


@contextmanager
def mlserver(environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    """Four of MLServer's servers."""
    place, port = folder / "mlserver", free_port()
    ports = {label: free_port() for label in LABELS}
    for label, path in _models(models).items():
        model = {"implementation": "Class", "parameters": {"uri": str(path)}}
        _mlserver_folder(place / label, label, ports[label], model)
    addresses = [f"127.0.0.1:{each}" for each in ports.values()]
    model = {"implementation": "Iris", "parameters": {"extra": {"addresses": addresses}}}
    _mlserver_folder(place / "iris", "iris", port, model)
    commands = [
        [f"{environment}/bin/mlserver", "start", str(place / name)] for name in ("iris", *LABELS)
    ]
    variables = {"PYTHONPATH": str(ROOT)}
    with running(*commands, log=folder / "mlserver.log", environment=variables) as pids:
        yield inference("mlserver", port, pids)


def _mlserver_folder(place: Path, name: str, grpc_port: int, model: Mapping[str, Any]) -> None:
    place.mkdir(parents=True)
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "grpc_port": grpc_port,
        "http_port": free_port(),
        "metrics_endpoint": None,
        "metrics_dir": str(place),
        "environments_dir": str(place),
        "parallel_workers": 0,
    }
    (place / "settings.json").write_text(json.dumps(settings))
    implementation = f"bench.peers.servers.mlserver_models.{model['implementation']}"
    said = {**model, **_MLSERVER_BATCH, "name": name, "implementation": implementation}
    (place / "model-settings.json").write_text(json.dumps(said))


@contextmanager
def bentoml(environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    """Four of BentoML's services, which it starts itself."""
    port = free_port()
    service = "bench.peers.servers.bentoml_iris:Iris"
    options = ["--host", "127.0.0.1", "--port", str(port)]
    command = [f"{environment}/bin/bentoml", "serve", service, *options]
    variables = {
        "BENCH_MODELS": str(models.resolve()),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / "bentoml"),
        "PATH": f"{environment}/bin:/usr/bin:/bin",
    }
    with running(command, log=folder / "bentoml.log", environment=variables) as pids:
        yield _json("bentoml", port, "/classify", pids)


@contextmanager
def litserve(environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    """Four of LitServe's servers."""
    port, ports = free_port(), {label: free_port() for label in LABELS}
    commands = [
        _python(environment, "litserve_class", ports[label], path)
        for label, path in _models(models).items()
    ]
    urls = [f"http://127.0.0.1:{each}/predict" for each in ports.values()]
    front = _python(environment, "litserve_front", port, *urls)
    with running(front, *commands, log=folder / "litserve.log") as pids:
        yield _json("litserve", port, "/predict", pids)


@contextmanager
def ray(environment: Path, models: Path, folder: Path) -> Iterator[Up]:
    """A Ray cluster of one machine."""
    port = free_port()
    command = _python(environment, "ray_iris", port, free_port(), models.resolve(), folder / "ray")
    variables = {
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Ports of the replicas' own, which nobody asks here and which drain for 30 s at the end.
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with running(command, log=folder / "ray.log", environment=variables) as pids:
        yield Up(
            "ray",
            f"127.0.0.1:{port}",
            tuple(pids),
            known.METHOD,
            known.request,
            known.probabilities,
            known.labels,
        )
