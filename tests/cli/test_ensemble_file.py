"""The file of an ensemble: what is read, and what is refused with the place of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trillium.cli.ensemble_file import FileWrong, read

GOOD = """
ensemble: iris
classes:
  - {label: setosa, model: iris-setosa@3}
  - {label: versicolor, model: iris-versicolor@latest, replicas: 2}
  - {label: virginica, model: ./models/iris-virginica.onnx, limits: {cpus: 0.5}}
  - iris-other
limits: {cpus: 1, memory: 256MiB}
traffic: {latest: 90, previous: 7, 4: 3}
note: with a fourth class
rollback_window_s: 60
"""


def test_everything_that_it_may_say_is_read(tmp_path: Path) -> None:
    path = tmp_path / "iris.yaml"
    path.write_text(GOOD)
    said = read(path)
    request = said.request
    assert request.ensemble_id == "iris"
    assert [(each.class_label, each.model, each.model_version) for each in request.classes] == [
        ("setosa", "iris-setosa", 3),
        ("versicolor", "iris-versicolor", 0),
        ("virginica", "iris-virginica", 0),
        ("", "iris-other", 0),
    ]
    assert [each.replica_count for each in request.classes] == [0, 2, 0, 0]
    assert request.classes[2].limits.cpus == 0.5
    assert (request.limits.cpus, request.limits.memory_bytes) == (1, 2**28)
    assert said.artifacts == {2: tmp_path / "models" / "iris-virginica.onnx"}
    assert said.traffic == {"latest": 90, "previous": 7, 4: 3}
    assert request.note == "with a fourth class"
    assert request.rollback_window_s == 60


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the file: is nothing"),
        ("- a", "the file: is a list; expected keys"),
        ("a: [", "is no YAML"),
        ("ensemble: iris\nensemble: wine", "the key 'ensemble' is there again in line 2"),
        ("ensemble: iris\nclass: []", "has the key 'class'; allowed: ensemble, classes"),
        ("ensemble: iris", "classes: is missing or empty"),
        ("ensemble: 1\nclasses: [a]", "ensemble: is 1, which is a number; put a text in quotes"),
        ("classes: [a]", "ensemble: is missing"),
        ("ensemble: a\nclasses: [{label: no, model: m}]", "classes[0].label: is False"),
        ("ensemble: a\nclasses: [{label: x}]", "classes[0].model: is missing"),
        ("ensemble: a\nclasses: ['m@x']", "classes[0].model: 'm@x' names no version"),
        ("ensemble: a\nclasses: [{model: m, replicas: 0}]", "classes[0].replicas: is 0"),
        ("ensemble: a\nclasses: [m]\nlimits: {memory: lots}", "limits.memory: is 'lots'"),
        ("ensemble: a\nclasses: [m]\ntraffic: {latest: 90}", "traffic: adds up to 90 %"),
        ("ensemble: a\nclasses: [m]\ntraffic: {newest: 100}", "traffic.newest: expected 'latest'"),
        ("ensemble: a\nclasses: [m]\nnote: 3", "note: is 3"),
        ("ensemble: !!python/object:os.system x", "is no YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(FileWrong) as raised:
        read(path)
    assert why in str(raised.value)
