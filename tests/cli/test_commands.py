"""The commands that ask, against a real ensemble."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import shlex
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.main import get_command

from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.plans.roster import Endpoint
from tests.cli.conftest import Command, Up
from trillium.cli.commands import app
from trillium.cli.logs import followed, last_lines

FLOWER = ("5.1", "3.5", "1.4", "0.2")
NOBODY = ("--address", "127.0.0.1:1")


@pytest.fixture
async def at(running: Up) -> tuple[str, str]:
    """The option that names a running ensemble."""
    return ("--address", running.address)


async def test_every_way_to_ask_answers(
    trillium: Command, at: tuple[str, str], tmp_path: Path
) -> None:
    shown = trillium("classify", *FLOWER, *at)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split()[-1] == "setosa"

    answer = json.loads(trillium("classify", *FLOWER, "--json", *at).stdout)
    assert answer["label"] == "setosa"
    assert list(answer["probabilities"]) == ["setosa", "versicolor", "virginica"]
    assert answer["probability"] == answer["probabilities"]["setosa"]

    table = tmp_path / "flowers.csv"
    table.write_text("5.1,3.5,1.4,0.2\n\n6.3,3.3,6.0,2.5\n")
    lines = trillium("classify", "--csv", str(table), "--json", *at).stdout.splitlines()
    assert [json.loads(line)["label"] for line in lines] == ["setosa", "virginica"]

    named = (
        "kind,petal_width_cm,petal_length_cm,sepal_width_cm,sepal_length_cm\n?,2.5,6.0,3.3,6.3\n"
    )
    by_name = trillium("predict", "-", "--json", *at, said=named)
    assert by_name.returncode == 0, by_name.stderr
    assert json.loads(by_name.stdout)["probabilities"]["virginica"] > 0.9

    other = trillium("predict", "-", *at, said="length,width,a,b\n6.3,3.3,6.0,2.5\n")
    assert (other.returncode, other.stdout) == (2, "")
    words = " ".join(other.stderr.replace("\u2502", " ").split())
    assert "no column is named 'sepal_length_cm', 'sepal_width_cm'" in words
    assert "got 'length', 'width', 'a', 'b'" in words

    negative = trillium("predict", "-5.1", "3.5", "1.4", "-.2", *at)
    assert negative.returncode == 0, negative.stderr

    status = trillium("status", *at)
    assert "iris at" in status.stdout
    assert "\u2026" not in status.stdout
    assert status.stdout.count(" ready ") == 3
    facts = json.loads(trillium("status", "--json", *at).stdout)
    assert facts["serving"] is True
    assert facts["metadata"]["sample"] == [5.1, 3.5, 1.4, 0.2]
    assert [each["state"] for each in facts["predictors"]] == ["ready"] * 3

    wrong = trillium("classify", "1", "2", *at)
    assert wrong.returncode == 1
    assert wrong.stderr == "trillium: matrix.column_count: is 2; the model has 4 features\n"
    assert wrong.stdout == ""


async def test_answers_come_as_csv_with_all_their_digits(
    trillium: Command, at: tuple[str, str], tmp_path: Path
) -> None:
    flowers = "5.1,3.5,1.4,0.2\n6.3,3.3,6.0,2.5\n"
    answers = trillium("classify", "-", "--format", "json", *at, said=flowers).stdout.splitlines()
    written = tmp_path / "answers.csv"
    ended = trillium("classify", "-", "-o", str(written), *at, said=flowers)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    raw = await asyncio.to_thread(written.read_bytes)
    assert raw.count(b"\r\n") == raw.count(b"\n") == 3
    found = list(csv.DictReader(io.StringIO(raw.decode(), newline="")))
    for number, (line, told) in enumerate(zip(found, map(json.loads, answers), strict=True)):
        assert (line["row"], line["label"]) == (str(number), told["label"])
        for label, probability in told["probabilities"].items():
            assert float(line[f"probability_{label}"]) == probability

    predicted = trillium("predict", "-", "--format", "csv", *at, said=flowers).stdout.splitlines()
    assert predicted[0] == "row,probability_setosa,probability_versicolor,probability_virginica"
    assert predicted[1] == raw.decode().splitlines()[1].replace("0,setosa,", "0,")


async def test_many_rows_are_answered_as_they_come(
    trillium: Command, at: tuple[str, str], tmp_path: Path
) -> None:
    flowers = "5.1,3.5,1.4,0.2\n" * 20_000
    answers = trillium("predict", "-", "--format", "csv", *at, said=flowers).stdout.splitlines()
    assert len(answers) == 20_001
    assert answers[-1].startswith("19999,0.99")

    written = tmp_path / "answers.json"
    ended = trillium(
        "predict", "-", "--json", "-o", str(written), *at, said=flowers + "1,2,3,blue\n"
    )
    assert ended.returncode == 2
    complaint = "row 20000 (line 20001), column 'petal_width_cm': expected a number, got 'blue'"
    assert complaint in " ".join(ended.stderr.replace("\u2502", " ").split())
    assert len((await asyncio.to_thread(written.read_text)).splitlines()) == 16_384


async def test_files_of_every_format_are_scored_by_name(
    trillium: Command, at: tuple[str, str], tmp_path: Path
) -> None:
    names = ["petal_width_cm", "species", "petal_length_cm", "sepal_width_cm", "sepal_length_cm"]
    columns = [[0.2, 2.5], ["?", "?"], [1.4, 6.0], [3.5, 3.3], [5.1, 6.3]]
    table = pa.table(dict(zip(names, columns, strict=True)))
    parquet.write_table(table, tmp_path / "f.parquet")
    lines = [";".join(names), *(";".join(map(str, row.values())) for row in table.to_pylist())]
    await asyncio.to_thread((tmp_path / "f.csv").write_text, "\n".join(lines).replace(".", ","))
    answers = tmp_path / "answers.parquet"
    told = trillium("classify", str(tmp_path / "f.parquet"), "-o", str(answers), *at)
    assert (told.returncode, told.stdout) == (0, "")
    assert told.stderr == (
        f"trillium: {tmp_path}/f.parquet: columns left out, as the model has no such features: "
        "'species'\n"
    )
    found = parquet.read_table(answers)
    assert found.column("label").to_pylist() == ["setosa", "virginica"]
    assert found.column("row").to_pylist() == [0, 1]
    told = trillium("classify", str(tmp_path / "f.csv"), "--decimal", ",", "--json", *at)
    assert told.stderr.startswith(f"trillium: {tmp_path}/f.csv: cells are parted by a semicolon\n")
    labels = [json.loads(line)["label"] for line in told.stdout.splitlines()]
    assert labels == ["setosa", "virginica"]
    shown = [json.loads(line)["probabilities"]["setosa"] for line in told.stdout.splitlines()]
    assert found.column("probability_setosa").to_pylist() == pytest.approx(shown)


@pytest.mark.parametrize(("form", "name"), [("csv", "a.csv"), ("json", "a.json")])
async def test_an_output_that_broke_off_is_resumed(
    trillium: Command, at: tuple[str, str], tmp_path: Path, form: str, name: str
) -> None:
    flowers = tmp_path / "flowers.csv"
    rows = "".join(f"{5 + row / 1e5},3.5,1.4,0.2\n" for row in range(20_000))
    await asyncio.to_thread(flowers.write_text, rows)
    output = tmp_path / name
    words = ("classify", str(flowers), "-o", str(output), *at)
    assert trillium(*words).returncode == 0
    whole = await asyncio.to_thread(output.read_bytes)
    for kept in (0, 3, 40, len(whole) // 2, len(whole) - 1, len(whole)):
        await asyncio.to_thread(output.write_bytes, whole[:kept])
        told = trillium(*words, "--resume")
        assert (told.returncode, told.stderr) == (0, "")
        assert await asyncio.to_thread(output.read_bytes) == whole
    output.unlink()
    assert trillium(*words, "--resume").returncode == 0
    assert await asyncio.to_thread(output.read_bytes) == whole


async def test_an_output_of_other_columns_is_not_resumed(
    trillium: Command, at: tuple[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "a.csv"
    flowers = "5.1,3.5,1.4,0.2\n6.3,3.3,6.0,2.5\n"
    await asyncio.to_thread(output.write_text, "row,label,probability_x\r\n0,x,1\r\n")
    told = trillium("classify", "-", "-o", str(output), "--resume", *at, said=flowers)
    assert told.returncode == 2
    assert "the file has the columns row, label, probability_x" in " ".join(
        told.stderr.replace("\u2502", " ").split()
    )
    assert (await asyncio.to_thread(output.read_text)).count("\n") == 2


async def test_status_tells_of_the_controller_where_no_aggregator_is(
    trillium: Command, running: Up
) -> None:
    words = ("status", *NOBODY, "--controller", running.controller_address)
    shown = trillium(*words)
    assert shown.returncode == 1
    assert f"the controller at {running.controller_address} is serving" in shown.stdout
    assert "iris-setosa" in shown.stdout
    assert shown.stderr.startswith("trillium: no answer from 127.0.0.1:1: ")
    told = json.loads(trillium(*words, "--json").stdout)
    assert told["problem"].startswith("no answer from 127.0.0.1:1: ")
    assert told["controller"]["serving"] is True


async def test_status_tells_that_there_is_no_gateway(trillium: Command, running: Up) -> None:
    at = ("--address", running.address, "--controller", running.controller_address)
    told = trillium("status", *at, "--gateway", "127.0.0.1:1")
    assert told.returncode == 0
    assert "no gateway: no answer from 127.0.0.1:1: " in told.stdout


async def test_status_tells_of_predictors_that_nobody_has_reached(trillium: Command) -> None:
    config = AggregatorConfig((Endpoint("setosa", "127.0.0.1:1"),), listen="127.0.0.1:0")
    async with running_aggregator(config) as aggregator:
        status = await asyncio.to_thread(trillium, "status", "--address", aggregator.address)
        asked = await asyncio.to_thread(
            trillium, "classify", *FLOWER, "--address", aggregator.address
        )
    assert status.returncode == 0, status.stderr
    assert "not serving; no predictor has been reached yet" in status.stdout
    assert "127.0.0.1:1" in status.stdout
    assert asked.returncode == 1
    assert asked.stderr.endswith("; `trillium status` shows all predictors\n")


@pytest.mark.parametrize("words", [("classify", *FLOWER), ("predict", *FLOWER), ("status",)])
def test_nobody_there_is_one_sentence_and_a_next_step(
    trillium_process: Command, words: tuple[str, ...]
) -> None:
    ended = trillium_process(*words, *NOBODY)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("trillium: no answer from 127.0.0.1:1: ")
    assert ended.stderr.endswith("; `trillium up` starts one, --address names another\n")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("classify",), "or a file, or - for standard"),
        (("classify", "5.1", "blue"), "feature 2: expected a number, got 'blue'"),
        (("classify", "5.1", "--jsn"), "expected a number, got '--jsn'"),
        (("predict", "1", "--csv", "file"), "not both"),
        (("predict", "1", "--json", "--format", "csv"), "not both"),
        (("predict", "1", "--format", "table", "-o", "file"), "as csv, json or parquet"),
        (("predict", "1", "--format", "xml"), "'xml' is not one of"),
        (("predict", "1", "--format", "parquet"), "give --output"),
        (("predict", "1", "--resume"), "can be resumed: give"),
        (("predict", "1", "--resume", "-o", "a.parquet"), "can be resumed"),
        (("predict", "a.csv", "--delimiter", "colon"), "expected one of comma"),
        (("predict", "a.csv", "--decimal", ":"), "the decimal sign is ':'"),
        (("predict", "1e39", *NOBODY), "1e39 is too large"),
        (("status", "--address", "here"), "host:port"),
        (("status", "--timeout", "0"), "above 0"),
        (("up", "--port", "0"), "--port"),
        (("up", "--controller-port", "65536"), "--controller-port"),
        (("dance",), "dance"),
    ],
)
def test_a_wrong_command_line_is_refused_as_such(
    trillium: Command, words: tuple[str, ...], what: str
) -> None:
    ended = trillium(*words)
    assert ended.returncode == 2
    assert what in ended.stderr


def test_a_csv_file_that_is_not_there_is_named(trillium: Command) -> None:
    ended = trillium("classify", "--csv", "nowhere.csv", *NOBODY)
    assert ended.returncode == 1
    assert ended.stderr == "trillium: nowhere.csv: No such file or directory\n"


@pytest.mark.parametrize("words", [(), ("--help",), ("up", "--help"), ("classify", "-h")])
def test_help_is_at_hand(trillium_process: Command, words: tuple[str, ...]) -> None:
    ended = trillium_process(*words)
    assert (ended.stdout or ended.stderr).startswith("Usage: trillium")


def test_every_command_has_examples_that_it_accepts() -> None:
    root = get_command(app)
    seen = 0

    def visit(command: Any, words: tuple[str, ...]) -> None:
        nonlocal seen
        if hasattr(command, "commands"):
            for name, each in command.commands.items():
                visit(each, (*words, name))
            return
        lines = [line.strip() for line in (command.epilog or "").splitlines()[2:]]
        assert lines, words
        for line in lines:
            typed = shlex.split(line.partition(" < ")[0])
            assert tuple(typed[: len(words) + 1]) == ("trillium", *words)
            command.make_context("trillium", typed[len(words) + 1 :])
            seen += 1

    visit(root, ())
    assert seen >= 25


def test_addresses_may_stand_in_the_environment(
    trillium_process: Command, environment: dict[str, str]
) -> None:
    for words, variable in (
        (("classify", *FLOWER), "TRILLIUM_ADDRESS"),
        (("deploy", "list"), "TRILLIUM_CONTROLLER"),
        (("models", "list"), "TRILLIUM_CONTROLLER"),
    ):
        environment[variable] = "127.0.0.1:2"
        try:
            ended = trillium_process(*words)
        finally:
            del environment[variable]
        assert ended.stderr.startswith("trillium: no answer from 127.0.0.1:2: ")
    ended = trillium_process("deploy", "list", "--controller", "127.0.0.1:3")
    assert ended.stderr.startswith("trillium: no answer from 127.0.0.1:3: ")


async def test_load_is_measured(trillium: Command, at: tuple[str, str], tmp_path: Path) -> None:
    words = ("bench", "--seconds", "0.3", "--callers", "4", *at)
    facts = json.loads((await asyncio.to_thread(trillium, *words, "--json")).stdout)
    assert facts["calls"] > 0
    assert facts["failures"] == {}
    assert 0 < facts["p50_ms"] <= facts["p90_ms"] <= facts["p99_ms"] <= facts["max_ms"]
    assert facts["calls_per_s"] == pytest.approx(facts["calls"] / facts["took_s"], rel=0.01)
    flowers = tmp_path / "f.csv"
    await asyncio.to_thread(flowers.write_text, "5.1,3.5,1.4,0.2\n6.3,3.3,6.0,2.5\n")
    shown = await asyncio.to_thread(trillium, *words, str(flowers), "--rows", "3")
    assert shown.returncode == 0, shown.stderr
    assert "rows in a call" in shown.stdout
    wrong = tmp_path / "wrong.csv"
    await asyncio.to_thread(wrong.write_text, "1,2\n")
    refused = await asyncio.to_thread(trillium, *words, str(wrong))
    assert refused.stderr == "trillium: matrix.column_count: is 2; the model has 4 features\n"


async def test_load_that_fails_is_counted(trillium: Command, at: tuple[str, str]) -> None:
    many = ("bench", "--seconds", "0.1", "--rows", "65536")
    refused = await asyncio.to_thread(trillium, *many, *at)
    assert refused.returncode == 1
    assert "matrix.row_count: is 65536; at most" in refused.stderr
    nobody = await asyncio.to_thread(trillium, "bench", "--seconds", "0.1", *NOBODY)
    assert nobody.stderr.startswith("trillium: no answer from 127.0.0.1:1: ")


async def test_logs_of_the_servers_are_shown(trillium: Command, running: Up) -> None:
    state = ("--state", str(running.folder / ".trillium"))
    shown = trillium("logs", *state).stdout.splitlines()
    names = {re.split("[-:]", line)[0] for line in shown}
    assert "controller" in names
    one = trillium("logs", "controller", "-n", "1", *state).stdout.splitlines()
    assert len(one) == 1
    assert one[0].startswith("controller-")
    missing = trillium("logs", "gateway", *state)
    assert missing.returncode == 1
    assert "has no log of gateway: it has controller-" in missing.stderr


def test_last_lines_and_further_ones_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_text("".join(f"line {number} {'x' * 50}\n" for number in range(5000)))
    assert [line.split()[1] for line in last_lines(path, 3)] == ["4997", "4998", "4999"]
    assert len(last_lines(path, 100_000)) == 5000
    assert last_lines(path, 0) == []
    with closing(followed([path])) as lines, path.open("a") as file:
        writing = threading.Timer(0.01, lambda: print("new\npart", end="", file=file, flush=True))
        writing.start()
        assert next(lines) == ("a", "new")
        writing.join()
        writing = threading.Timer(0.01, lambda: print("ial", file=file, flush=True))
        writing.start()
        assert next(lines) == ("a", "partial")
        writing.join()
