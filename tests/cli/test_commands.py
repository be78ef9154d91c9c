"""The commands that ask, against a real ensemble."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from pathlib import Path

import pytest

from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.roster import Endpoint
from tests.cli.conftest import Command, Up

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
    assert "standard input, line 20001: 'blue' is no number" in " ".join(ended.stderr.split())
    assert len((await asyncio.to_thread(written.read_text)).splitlines()) == 16_384


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
        (("classify",), "standard input"),
        (("classify", "5.1", "blue"), "'blue' is no number"),
        (("classify", "5.1", "--jsn"), "'--jsn' is no number"),
        (("predict", "1", "--csv", "file"), "not both"),
        (("predict", "1", "--json", "--format", "csv"), "not both"),
        (("predict", "1", "--format", "table", "-o", "file"), "as csv or json"),
        (("predict", "1", "--format", "xml"), "'xml' is not one of"),
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
    assert "Usage: trillium" in "".join(trillium_process(*words).stdout.splitlines()[:3])
