"""`trillium models train` as a process, and with a real controller."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.datasets import load_wine

from tests.cli.conftest import Up

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def wines(tmp_path: Path) -> Path:
    """A CSV file of wines with their maker in the column `maker`."""
    wine = load_wine()
    lines = [",".join([*wine.feature_names, "maker"])]
    for row, target in zip(wine.data.tolist(), wine.target, strict=True):
        lines.append(",".join([*map(repr, row), f"maker {target}"]))
    path = tmp_path / "wines.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def labelled(wines: Path) -> Path:
    """The same as a dataset, whose classes stand in a column `label`."""
    path = wines.with_name("labelled.csv")
    path.write_text(wines.read_text().replace(",maker\n", ",label\n"))
    return path


def answered(ended: subprocess.CompletedProcess[str]) -> Any:
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


async def test_a_table_is_trained_registered_and_scored(
    trillium: Command, running: Up, wines: Path, tmp_path: Path
) -> None:
    at = ("--address", running.controller_address)
    words = ("--ensemble", "cellar", "--label-column", "maker", "--output", str(tmp_path / "out"))
    told = answered(trillium("models", "train", str(wines), *words, "--register", "--json", *at))
    assert told["accuracy"] > 0.9
    assert [each["class_label"] for each in told["models"]] == ["maker 0", "maker 1", "maker 2"]
    assert [each["version"] for each in told["models"]] == [1, 1, 1]

    listed = trillium("models", "list", "--json", *at).stdout.splitlines()
    known = {each["name"]: each for each in map(json.loads, listed)}
    for model in told["models"]:
        assert known[model["model"]]["class_label"] == model["class_label"]
        assert known[model["model"]]["ensemble"] == "cellar"

    assert trillium("datasets", "add", "cellar", str(labelled(wines)), *at).returncode == 0
    scored = answered(trillium("run", "create", "cellar-maker_0", "cellar", "--json", *at))
    assert scored["evaluation"]["accuracy"] > 0.9


def test_index_of_a_dataframe_is_left_out_and_named(trillium: Command, tmp_path: Path) -> None:
    path, words = tmp_path / "t.parquet", ("--ensemble", "e", "--output", str(tmp_path))
    classes = ["a"] * 10 + ["b"] * 10
    table = pa.table({"x": [0.5, 0.1] * 10, "label": classes, "__index_level_0__": range(20)})
    parquet.write_table(table, path)
    told = answered(trillium("models", "train", str(path), *words, "--json"))
    assert (told["feature_names"], told["left_out"]) == (["x"], ["__index_level_0__"])
    shown = trillium("models", "train", str(path), *words).stdout
    assert "left out, since it is the table's index: '__index_level_0__'" in shown


def test_the_table_of_accuracies_names_every_class(
    trillium: Command, wines: Path, tmp_path: Path
) -> None:
    words = ("--ensemble", "cellar", "--label-column", "maker", "--method", "linear")
    ended = trillium("models", "train", str(wines), *words, "--output", str(tmp_path))
    assert ended.returncode == 0
    assert ended.stderr == ""
    for place in range(3):
        assert f"maker {place}  cellar-maker_{place}" in ended.stdout
    last = ended.stdout.splitlines()[-1]
    assert last.startswith(f"cellar: 3 models in {tmp_path}; combined accuracy ")


def test_a_complete_set_is_left_alone_if_asked(
    trillium: Command, models: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in models.iterdir()}
    words = ("models", "train", "--builtin", "iris", "--if-missing", "--output")
    ended = trillium(*words, str(models))
    assert (ended.returncode, ended.stdout) == (0, "")
    assert ended.stderr == f"iris: all models are in {models} already\n"
    assert {path: path.stat().st_mtime_ns for path in models.iterdir()} == before
    (tmp_path / "iris-setosa.onnx").touch()
    assert trillium(*words, str(tmp_path)).returncode == 0
    for path in models.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("words", "status", "what"),
    [
        ((), 2, "give either a file or --builtin"),
        (("t.csv", "--builtin", "iris"), 2, "give either a file or --builtin"),
        (("--builtin", "tulips"), 2, "'tulips' is none of iris, digits, wine"),
        (("--builtin", "iris", "--ensemble", "e"), 2, "not with --builtin"),
        (("t.csv",), 2, "give --ensemble with a file"),
        (("t.csv", "--ensemble", "e", "--method", "round"), 2, "none of linear, curved"),
        (("t.csv", "--ensemble", "e"), 1, "t.csv: No such file or directory"),
        (("README.md", "--ensemble", "e"), 1, "README.md: expected a file name that ends in"),
        (("--builtin", "iris", "--output", "README.md/x"), 1, "Not a directory"),
        (
            ("--builtin", "iris", "--register", "--address", "127.0.0.1:1"),
            1,
            "no answer from 127.0.0.1:1",
        ),
    ],
)
def test_what_cannot_be_trained_is_told(
    trillium: Command, words: tuple[str, ...], status: int, what: str
) -> None:
    ended = trillium("models", "train", *words)
    assert ended.returncode == status
    assert ended.stdout == ""
    assert what in ended.stderr
    if status == 1:
        assert ended.stderr.startswith("trillium: ")
        assert ended.stderr.count("\n") == 1


def test_bad_rows_are_one_sentence(trillium: Command, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,label\n" + "1,a\n" * 4 + "red,b\n" * 4)
    ended = trillium("models", "train", str(path), "--ensemble", "e", "--output", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr == (
        f"trillium: {path}: row 4 (line 6), column 'x': expected a number, got 'red'; "
        "row 5 (line 7), column 'x': expected a number, got 'red'; "
        "row 6 (line 8), column 'x': expected a number, got 'red'; and 1 more\n"
    )


def test_without_the_training_packages_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['sklearn'] = None; sys.argv[1:] = "
        f"['models', 'train', '--builtin', 'iris', '--output', {str(tmp_path)!r}]\n"
        "import importlib.util; found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'sklearn' else found(name)\n"
        "from trillium.cli import main; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 1
    assert ended.stderr == (
        "trillium: training needs scikit-learn, not installed here; "
        "install it: pip install scikit-learn\n"
    )
