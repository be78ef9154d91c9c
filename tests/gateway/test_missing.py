"""Rows with missing values, through every door of an ensemble whose models take them; and rows by
name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
import pytest_asyncio
from typer.testing import CliRunner

from tests.artifacts import iris_rows
from tests.gateway.serving import LABELS, SETOSA, VIRGINICA, System, serving_system
from tests.gateway.test_proxy import truth
from tests.trained import made_once
from trillium import AsyncClient, AsyncControllerClient, InvalidRequest
from trillium.cli.commands import app
from trillium.training import TableRefused, builtin_table, train

pytestmark = pytest.mark.asyncio(loop_scope="module")
PREDICT = "/v1/ensembles/iris:predict"
NAMES = ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"]
NAN = float("nan")
ROWS = [[5.1, NAN, 1.4, 0.2], [NAN, 3.3, 6.0, 2.5], [7.0, 3.2, NAN, NAN]]


def holed() -> tuple[np.ndarray, list[str]]:
    """Iris without every eleventh value, and its labels."""
    table = builtin_table("iris")
    rows = table.rows.copy()
    rows.reshape(-1)[::11] = NAN
    return rows, [table.class_labels[index] for index in table.classes]


def train_trees(output: Path) -> None:
    rows, labels = holed()
    train(rows, labels, ensemble="iris", output=output, feature_names=NAMES, method="trees")


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with iris models that take missing values."""
    return made_once(tmp_path_factory, "trained-trees", train_trees)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(trees: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with serving_system(
        trees, tmp_path_factory.mktemp("system"), models_dir=trees
    ) as running:
        yield running


async def test_training_declares_what_its_models_take(trees: Path, models: Path) -> None:
    for folder, expected in ((trees, "true"), (models, None)):
        model = onnx.load(folder / "iris-setosa.onnx")
        facts = {each.key: each.value for each in model.metadata_props}
        assert facts.get("trillium.takes_missing") == expected
        assert np.isfinite(json.loads(facts["trillium.sample"])).all()


async def test_other_methods_refuse_missing_values(tmp_path: Path) -> None:
    with pytest.raises(TableRefused, match="row 0, column 'feature_0' is nan"):
        train(*holed(), ensemble="iris", output=tmp_path)


async def test_missing_values_are_scored_by_the_clients(system: System, trees: Path) -> None:
    expected = truth(trees, np.array(ROWS, np.float32))
    async with AsyncClient(system.aggregator) as client:
        assert (await client.metadata()).takes_missing
        tables: list[Any] = [ROWS, np.ma.masked_invalid(ROWS)]
        columns = np.array(ROWS).T.tolist()
        nulls = [[None if value != value else value for value in column] for column in columns]
        tables.append(pa.table(dict(zip(NAMES, nulls, strict=True))))
        for table in tables:
            answer = await client.predict(table)
            np.testing.assert_array_equal(answer.probabilities, expected)
        with pytest.raises(InvalidRequest, match=r"row 0, column 1 is inf; finite values only$"):
            await client.predict([[1.0, np.inf, 1.0, 1.0]])


async def test_null_is_scored_by_http(system: System, trees: Path) -> None:
    nulls = [[None if value != value else value for value in row] for row in ROWS]
    expected = truth(trees, np.array(ROWS, np.float32))
    answer = (await system.call.post(PREDICT, {"instances": nulls})).json
    np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), expected)
    flat = [value for row in nulls for value in row]
    tensor = {"name": "input", "datatype": "FP32", "shape": [3, 4], "data": flat}
    inferred = (await system.call.post("/v2/models/iris/infer", {"inputs": [tensor]})).json
    found = np.array(inferred["outputs"][0]["data"], np.float32).reshape(3, 3)
    np.testing.assert_array_equal(found, expected)


async def test_empty_cells_are_scored_by_the_command_line(
    system: System, trees: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    lines = [",".join("" if value != value else str(value) for value in row) for row in ROWS]
    await asyncio.to_thread(path.write_text, "\n".join([",".join(NAMES), *lines]))
    words = ["predict", str(path), "--format", "csv", "--address", system.aggregator]
    told = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert told.exit_code == 0, told.output
    found = [line.split(",")[1:] for line in told.stdout.splitlines()[1:]]
    expected = truth(trees, np.array(ROWS, np.float32))
    np.testing.assert_array_equal(np.array(found, np.float32), expected)


async def test_dataset_with_missing_values_is_scored_by_models_that_take_them(
    system: System, models: Path
) -> None:
    rows = np.array(ROWS)
    table = pa.table({name: rows[:, at] for at, name in enumerate(NAMES)})
    async with AsyncControllerClient(system.controller, timeout_s=120) as controller:
        answer = await controller.register_dataset("holed", table)
        assert answer.dataset.versions[0].first_missing == "row 0, column 'sepal_width_cm'"
        await controller.register_model("plain-setosa", models / "iris-setosa.onnx")
        with pytest.raises(
            InvalidRequest,
            match="missing value in row 0, column 'sepal_width_cm'; model 'plain-setosa' version 1",
        ):
            await controller.run("plain-setosa", "holed")
        run = await controller.run("iris-setosa", "holed")
        assert run.rows_done == 3, run.detail


async def test_rows_by_name_are_taken_in_any_order(iris: System, models: Path) -> None:
    rows = [dict(zip(NAMES, SETOSA, strict=True)), dict(zip(NAMES, VIRGINICA, strict=True))]
    turned = [dict(reversed(rows[0].items())), rows[1]]
    spoken = [
        {name.replace("_cm", " (cm)").replace("_", " "): row[name] for name in row} for row in rows
    ]
    expected = truth(models, [SETOSA, VIRGINICA])
    for instances in (rows, turned, spoken):
        answer = (await iris.call.post(PREDICT, {"instances": instances})).json
        np.testing.assert_array_equal(np.array(answer["predictions"], np.float32), expected)
    labels = (await iris.call.post("/v1/ensembles/iris:classify", {"instances": turned})).json
    assert [each["label"] for each in labels["classifications"]] == ["setosa", "virginica"]


@pytest.mark.parametrize(
    ("instances", "field", "sentence"),
    [
        ([dict.fromkeys(NAMES[:3], 1.0)], "instances[0]", "no column is named 'petal_width_cm'"),
        (
            [dict.fromkeys(NAMES, 1.0), dict.fromkeys([*NAMES, "id"], 1.0)],
            "instances[1]",
            "no feature for: 'id'",
        ),
        ([dict.fromkeys(NAMES, "1")], "instances[0].sepal_length_cm", "valid number"),
        ([dict.fromkeys(NAMES, 1.0), [1.0]], "instances[1]", "expected an object"),
        ([[1.0, 2.0, 3.0, 4.0], {"a": 1.0}], "instances[1]", "valid list"),
        ([{**dict.fromkeys(NAMES, 1.0), NAMES[3]: None}], "instances", "row 0, column 3 is nan"),
    ],
)
async def test_rows_by_other_names_are_refused(
    iris: System, instances: Any, field: str, sentence: str
) -> None:
    answer = await iris.call.post(PREDICT, {"instances": instances})
    assert answer.status == 400
    assert sentence in answer.fields[field]


async def test_many_rows_by_name_are_answered(iris: System, models: Path) -> None:
    rows = iris_rows()
    instances = [dict(zip(NAMES, row, strict=True)) for row in rows.tolist()]
    answer = (await iris.call.post(PREDICT, {"instances": instances})).json
    found = np.array(answer["predictions"], np.float32)
    np.testing.assert_array_equal(found, truth(models, rows))
    assert answer["class_labels"] == list(LABELS)
