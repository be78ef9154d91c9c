"""Any labelled table can be trained on, and what is wrong with a table is told in a sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet

from trillium.training import (
    NotGoodEnough,
    PackagesMissing,
    TableRefused,
    packages,
    read_table,
    train,
    train_table,
)
from trillium.training.names import model_names
from trillium.training.table import from_matrix

Floats = NDArray[np.float64]


def blobs(count: int = 40) -> tuple[Floats, list[str]]:
    """Three heaps of points that a line parts, two features each."""
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])
    random = np.random.default_rng(0)
    rows = np.concatenate([centre + random.normal(size=(count, 2)) for centre in centres])
    return rows, [label for label in ("low", "right", "high") for _ in range(count)]


@pytest.mark.parametrize("method", ["curved", "linear"])
def test_a_table_becomes_a_model_for_each_class(method: str, tmp_path: Path) -> None:
    rows, labels = blobs()
    told = train(
        rows, labels, ensemble="blobs", output=tmp_path, feature_names=("x", "y"), method=method
    )
    assert [each.class_label for each in told.models] == ["high", "low", "right"]
    assert (told.row_count, told.held_out_row_count) == (120, 36)
    assert told.accuracy > 0.95
    answers = []
    for each in told.models:
        session = onnxruntime.InferenceSession(each.path, providers=["CPUExecutionProvider"])
        answers.append(session.run(["probabilities"], {"input": rows.astype(np.float32)})[0][:, 1])
    found = np.array([each.class_label for each in told.models])[np.argmax(answers, axis=0)]
    assert np.mean(found == labels) > 0.95


def test_what_was_told_is_in_the_artifact(tmp_path: Path) -> None:
    rows, labels = blobs()
    told = train(rows, labels, ensemble="blobs", output=tmp_path, feature_names=("x", "y"))
    for each in told.models:
        facts = {entry.key: entry.value for entry in onnx.load(each.path).metadata_props}
        assert json.loads(facts["trillium.class_labels"]) == ["high", "low", "right"]
        assert json.loads(facts["trillium.feature_names"]) == ["x", "y"]
        scores = json.loads(facts["trillium.scores"])
        assert scores["accuracy"] == pytest.approx(each.accuracy, abs=1e-6)
        assert scores["combined_accuracy"] == pytest.approx(told.accuracy, abs=1e-6)


def test_whole_numbers_are_classes_in_numeric_order(tmp_path: Path) -> None:
    rows, _ = blobs()
    told = train(rows, np.repeat([10.0, 2.0, -1.0], 40), ensemble="n", output=tmp_path)
    assert [each.class_label for each in told.models] == ["-1", "2", "10"]
    assert told.feature_names == ("feature_0", "feature_1")


def test_fitting_that_has_not_converged_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sklearn.linear_model import LogisticRegression

    from trillium.training import methods

    monkeypatch.setattr(methods, "_linear", lambda weight: LogisticRegression(max_iter=1))
    told = train(*blobs(), ensemble="blobs", output=tmp_path, method="linear")
    assert not any(each.converged for each in told.models)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["a b", "a/b", "a.b"], ["e-a_b", "e-a_b_2", "e-a.b"]),
        (["A", "a"], ["e-A", "e-a_2"]),
        (["北京", "東京"], ["e-_", "e-__2"]),
        (["x" * 300, "x" * 301], [f"e-{'x' * 118}", f"e-{'x' * 118}_2"]),
    ],
)
def test_every_class_gets_a_file_of_its_own(labels: list[str], names: list[str]) -> None:
    assert model_names("e", labels) == names


def four_each(*labels: Any) -> list[Any]:
    return [label for label in labels for _ in range(4)]


@pytest.mark.parametrize(
    ("features", "labels", "sentence"),
    [
        (np.ones(8), four_each(0, 1), r"features have the shape \(8,\): expected rows × features"),
        (
            np.ones((8, 1)),
            four_each(0),
            r"labels have the shape \(4,\): expected one label for each of the 8 rows",
        ),
        (np.ones((8, 0)), four_each(0, 1), "hold no feature: expected at least one"),
        ([[1.0]] * 7 + [[1.0, 2.0]], four_each(0, 1), "are all of one length"),
        (np.ones((8, 1)), four_each("a", "a"), "one class alone, 'a', in labels: at least 2"),
        (np.ones((0, 1)), [], "rows are missing; expected at least 1"),
        (
            np.ones((6, 1)),
            [*four_each("a"), "b", "b"],
            "class 'b' in labels has 2 rows: at least 4",
        ),
        (
            np.ones((8, 1)),
            four_each(0, 1.5),
            "row 4: the label is 1.5; expected text or a whole number",
        ),
        (np.ones((8, 1)), four_each(0, np.nan), "row 4: the label is empty"),
        (np.ones((8, 1)), four_each("a", " "), "row 4: the label is empty"),
        (
            [[1.0]] * 7 + [[np.nan]],
            four_each(0, 1),
            "row 7, column 'feature_0' is nan; finite numbers only",
        ),
        (
            [[1.0]] * 7 + [[-1e39]],
            four_each(0, 1),
            "row 7, column 'feature_0' is -1e\\+39; float32 holds 3.4e",
        ),
        (
            [["1"]] * 7 + [["red"]],
            four_each(0, 1),
            "row 7, column 'feature_0': expected a number, got 'red'",
        ),
        ([[None]] * 8, four_each(0, 1), "row 0, column 'feature_0' is null; expected a number"),
        (
            np.zeros((8, 1), "M8[s]"),
            four_each(0, 1),
            "row 0, column 'feature_0': expected a number, got 1970-01-01",
        ),
    ],
)
def test_a_bad_table_is_told_with_the_column_and_the_value(
    features: Any, labels: Any, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(TableRefused, match=sentence) as refused:
        train(features, labels, ensemble="e", output=tmp_path / "models")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a"], "a name for each of 2 features, got 1"),
        (["a", "a"], "the name 'a' stands 2 times"),
        (["a", ""], r"columns\[1\] has a name of 0 characters"),
    ],
)
def test_bad_feature_names_are_told(names: list[str], sentence: str, tmp_path: Path) -> None:
    rows, labels = blobs()
    with pytest.raises(TableRefused, match=sentence):
        train(rows, labels, ensemble="e", output=tmp_path, feature_names=names)


@pytest.mark.parametrize("name", ["", "../e", ".e", "a b", "e" * 65])
def test_an_ensemble_s_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    with pytest.raises(TableRefused, match="the ensemble's name is"):
        train(*blobs(), ensemble=name, output=tmp_path)


def test_features_that_float32_cannot_tell_apart_are_named(tmp_path: Path) -> None:
    rows, labels = blobs()
    with pytest.raises(
        NotGoodEnough, match=r"subtract a constant .* such as 'when' \(about 1e\+07"
    ):
        train(
            rows + np.array([0.0, 1e7]),
            labels,
            ensemble="e",
            output=tmp_path,
            feature_names=("x", "when"),
        )


def as_csv(path: Path, names: Sequence[str], rows: Floats, labels: Sequence[str]) -> None:
    lines = [
        ",".join([*map(repr, row), label]) for row, label in zip(rows.tolist(), labels, strict=True)
    ]
    path.write_text("\ufeff" + "\r\n".join([",".join([*names, "kind"]), "", *lines]) + "\r\n")


def as_parquet(path: Path, names: Sequence[str], rows: Floats, labels: Sequence[str]) -> None:
    columns = dict(zip(names, rows.T, strict=True))
    kinds = pa.array(labels).dictionary_encode()
    parquet.write_table(pa.table({**columns, "kind": kinds}), path, row_group_size=7)


def as_structured_npy(
    path: Path, names: Sequence[str], rows: Floats, labels: Sequence[str]
) -> None:
    array = np.empty(len(rows), dtype=[*((name, "f8") for name in names), ("kind", "U9")])
    for index, name in enumerate(names):
        array[name] = rows[:, index]
    array["kind"] = labels
    np.save(path, array)


@pytest.mark.parametrize(
    ("ending", "write"),
    [(".csv", as_csv), (".parquet", as_parquet), (".npy", as_structured_npy)],
)
def test_a_file_is_read_as_what_was_written(
    ending: str, write: Callable[..., None], tmp_path: Path
) -> None:
    rows, labels = blobs()
    path = tmp_path / f"table{ending}"
    write(path, ("id", "x", "y"), np.column_stack([np.arange(120.0), rows]), labels)
    table = read_table(path, "kind", drop=["id"])
    assert table.feature_names == ("x", "y")
    assert np.array_equal(table.rows, rows)
    assert [table.class_labels[index] for index in table.classes] == labels


@pytest.mark.parametrize("column", ["2", "-1", "feature_2"])
def test_a_matrix_has_its_classes_in_a_numbered_column(column: str, tmp_path: Path) -> None:
    rows, _ = blobs()
    np.save(tmp_path / "table.npy", np.column_stack([rows, np.repeat([0, 1, 2], 40)]))
    table = read_table(tmp_path / "table.npy", column)
    assert table.feature_names == ("feature_0", "feature_1")
    assert table.class_labels == ("0", "1", "2")
    assert np.array_equal(table.rows, rows)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.txt", b"", "expected a file name that ends in .csv, .tsv, .parquet"),
        ("t.csv", b"", "columns are missing: the file is empty: expected a header"),
        ("t.csv", b"\n5.1,3.5,0\n4.9,3.0,1\n", "line 2 has only numbers: expected a header"),
        ("t.csv", b",x,kind\n0,1,a\n", r"columns\[0\] has a name of 0 characters.* index=False"),
        (
            "t.csv",
            b"Unnamed: 0,x,kind\n0,1,a\n",
            r"columns\[0\] is 'Unnamed: 0', as pandas names an index",
        ),
        ("t.csv", b"x,kind\n", "rows are missing; expected at least 1"),
        ("t.csv", b"x,y\n1,2\n", "hold no column 'kind': there are 'x', 'y'"),
        ("t.csv", b"x,kind\n1,a\n\n2\n", r"row 1 \(line 4\) has 1 values: expected 2"),
        ("t.csv", b"x,kind\n1,a\n1,\xff\n", "line 3 is not UTF-8"),
        ("t.csv", b'x,kind\n"1,a\n', "line 2 opens a quote that is never closed"),
        (
            "t.csv",
            b"x,kind\n" + b"1,a\n" * 4 + b"red,b\n" * 4,
            r"\(line 6\), column 'x': expected a number, got 'red'",
        ),
        (
            "t.csv",
            b"x,kind\n" + b"1,a\n" * 4 + b",b\n" * 4,
            r"\(line 6\), column 'x': expected a number, got nothing",
        ),
        ("t.csv", b"x,kind\n" + b"1,a\n" * 4, "one class alone, 'a', in column 'kind'"),
        ("t.parquet", b"PAR1", "are no Parquet: "),
        ("t.npy", b"\x93NUMPY", "the header is none that NumPy writes"),
    ],
)
def test_a_bad_file_is_told_by_its_name(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TableRefused) as refused:
        read_table(path, "kind")
    assert str(refused.value).startswith(f"{path}: ")
    assert re.search(sentence, str(refused.value))


@pytest.mark.parametrize("name", ["__index_level_0__", "id"])
@pytest.mark.parametrize("index", [list(range(8)), list("abcdefgh")])
def test_index_of_a_dataframe_is_no_feature(name: str, index: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    columns = {name: index, "x": [0.5, 0.1] * 4, "kind": four_each("a", "b")}
    metadata = {"pandas": json.dumps({"index_columns": [name]})}
    parquet.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    table = read_table(path, "kind")
    assert (table.feature_names, table.left_out) == (("x",), (name,))
    dropped = read_table(path, "kind", drop=[name])
    assert (dropped.feature_names, dropped.left_out) == (("x",), ())
    trained = train_table(table, ensemble="e", output=tmp_path)
    assert trained.left_out == (name,)


def test_class_may_be_the_index_of_a_dataframe(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pa.table({"x": [0.5, 0.1] * 4, "kind": four_each("a", "b")})
    metadata = {"pandas": json.dumps({"index_columns": ["kind"]})}
    parquet.write_table(table.replace_schema_metadata(metadata), path)
    read = read_table(path, "kind")
    assert (read.feature_names, read.class_labels, read.left_out) == (("x",), ("a", "b"), ())


def test_column_that_pandas_named_may_be_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"{row},{row % 3},{label}" for row, label in enumerate(four_each("a", "b"))]
    path.write_text("\n".join(["Unnamed: 0,x,kind", *rows]))
    assert read_table(path, "kind", drop=["Unnamed: 0"]).feature_names == ("x",)


def test_columns_of_a_dataframe_keep_their_names(tmp_path: Path) -> None:
    table = pa.table({"b": [0.5, 0.1] * 4, "a": [1.0, 2.0] * 4})
    assert from_matrix(table, four_each("x", "y")).feature_names == ("b", "a")
    ordered = from_matrix(table, four_each("x", "y"), ("a", "b"))
    assert ordered.feature_names == ("a", "b")
    assert ordered.rows[0].tolist() == [1.0, 0.5]
    with pytest.raises(TableRefused, match=r"feature_names are not the table's: .* 'b', 'a'"):
        from_matrix(table, four_each("x", "y"), ("a", "c"))
    unnamed = pa.table({"Unnamed: 0": [0.5, 0.1] * 4})
    with pytest.raises(TableRefused, match="as pandas names an index without a name"):
        from_matrix(unnamed, four_each("x", "y"))


def test_nulls_and_dates_of_a_parquet_file_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    kinds = pa.array(four_each("a", "b"))
    parquet.write_table(pa.table({"x": pa.array([1, None] * 4), "kind": kinds}), path)
    with pytest.raises(TableRefused, match="row 1, column 'x' is null"):
        read_table(path, "kind")
    days = pa.array([1] * 8, pa.date32())
    parquet.write_table(pa.table({"x": days, "kind": kinds}), path)
    with pytest.raises(TableRefused, match=r"'x' is a 'date32.*; expected integers"):
        read_table(path, "kind")


def test_an_object_array_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([[object]]), allow_pickle=True)
    with pytest.raises(TableRefused, match="of type object"):
        read_table(tmp_path / "t.npy", "0")


def test_what_is_not_installed_is_told_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = {"sklearn", "skl2onnx"}
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name in absent else name)
    with pytest.raises(PackagesMissing) as missing:
        train(*blobs(), ensemble="e", output=tmp_path)
    assert str(missing.value) == (
        "training needs skl2onnx, scikit-learn, not installed here; "
        "install it: pip install skl2onnx scikit-learn"
    )


def test_nothing_that_trains_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys, trillium.cli, trillium.training\n"
        "heavy = {'onnx', 'onnxruntime', 'pyarrow', 'skl2onnx', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert ended.stdout == "[]\n"
