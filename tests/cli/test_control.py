"""The commands that ask the controller, against a real one."""

from __future__ import annotations

import asyncio
import csv
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command, Up
from tests.waiting import eventually

NOBODY = ("--address", "127.0.0.1:1")


@pytest.fixture
async def at(running: Up) -> tuple[str, str]:
    """The option that names a running controller."""
    return ("--address", running.controller_address)


def lines(ended: subprocess.CompletedProcess[str]) -> list[Any]:
    """The JSON that a command has printed, which must have succeeded."""
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def line(ended: subprocess.CompletedProcess[str]) -> Any:
    (only,) = lines(ended)
    return only


async def test_a_deployment_walks_its_whole_life(trillium: Command, at: tuple[str, str]) -> None:
    words = ("iris-setosa", "--id", "walk", "--memory", "512MiB")
    created = line(trillium("deploy", "create", *words, "--json", *at))
    assert created["state"] == "STATE_CREATED"
    assert created["limits"] == {"memory_bytes": str(512 << 20)}

    loaded = trillium("deploy", "load", "walk", *at)
    assert loaded.returncode == 0, loaded.stderr
    assert "loaded" in loaded.stdout
    assert "1 of 1" in loaded.stdout
    listed = lines(trillium("deploy", "list", "--state", "loaded", "--json", *at))
    assert "deployments/walk" in [each["name"] for each in listed]
    of_model = lines(trillium("deploy", "list", "--model", "iris-virginica", "--json", *at))
    assert {each["model"] for each in of_model} == {"iris-virginica"}

    scaled = trillium("deploy", "scale", "walk", "--replicas", "2", *at)
    assert scaled.returncode == 0, scaled.stderr
    assert "2 of 2" in scaled.stdout
    scaled = trillium("deploy", "scale", "walk", "--replicas", "1", "--json", *at)
    assert line(scaled)["replica_count"] == 1

    assert line(trillium("deploy", "unload", "walk", "--json", *at))["state"] == "STATE_CREATED"
    ended = line(trillium("deploy", "terminate", "walk", "--json", *at))
    assert ended["state"] == "STATE_TERMINATED"
    assert line(trillium("deploy", "show", "walk", "--json", *at))["state"] == "STATE_TERMINATED"

    history = lines(trillium("deploy", "history", "walk", "--json", *at))
    assert [each["number"] for each in history] == [str(n + 1) for n in range(len(history))]
    wishes = [each["after"] for each in history if "slot" not in each]
    assert wishes == ["CREATED", "LOADED", "LOADED", "LOADED", "CREATED", "ABSENT"]
    assert "load was requested" in trillium("deploy", "history", "walk", *at).stdout


async def test_why_a_deployment_failed_is_told(trillium: Command, at: tuple[str, str]) -> None:
    failed = trillium("deploy", "create", "iris-setosa", "--id", "held", "--cpus", "0.5", *at)
    assert failed.returncode == 1
    assert "a process cannot be held to 0.5 cpus" in failed.stderr
    assert failed.stderr.endswith(
        "`trillium deploy show` shows the last output of its predictors\n"
    )
    assert "a process cannot be held" in trillium("deploy", "show", "held", *at).stdout
    assert trillium("deploy", "terminate", "held", *at).returncode == 0


async def test_a_run_is_followed_and_its_results_are_read(
    trillium: Command, at: tuple[str, str], tmp_path: Path
) -> None:
    told = trillium("run", "create", "iris-setosa", "iris", "--id", "temp", *at)
    assert told.returncode == 0, told.stderr
    assert "150 rows" in told.stdout
    assert "accuracy 1.000" in told.stdout
    assert "predicted setosa" in told.stdout

    listed = {each["name"]: each for each in lines(trillium("run", "list", "--json", *at))}
    assert listed["runs/temp"]["state"] == "RUN_STATE_SUCCEEDED"
    assert listed["runs/temp"]["temporary"] is True
    watched = lines(trillium("run", "watch", "temp", "--json", *at))
    assert watched[-1]["rows_done"] == "150"
    # What has ended is left as it is.
    assert line(trillium("run", "cancel", "temp", "--json", *at)) == listed["runs/temp"]

    results = lines(trillium("run", "results", "temp", "--json", *at))
    assert [each["row"] for each in results] == list(range(150))
    file = tmp_path / "results.csv"
    assert trillium("run", "results", "temp", "-o", str(file), *at).stdout == ""
    with file.open(newline="") as content:
        rows = list(csv.DictReader(content))
    assert [float(row["probability"]) for row in rows] == [each["probability"] for each in results]
    assert {row["label"] for row in rows} == {"setosa", "versicolor", "virginica"}
    shown = trillium("run", "results", "temp", "--rows", "2", *at).stdout
    assert "the first 2 rows" in shown


async def test_a_run_on_a_deployment_that_is_there(trillium: Command, at: tuple[str, str]) -> None:
    deployments = lines(trillium("deploy", "list", "--model", "iris-setosa", "--json", *at))
    loaded = next(each for each in deployments if each["state"] == "STATE_LOADED")
    id = loaded["name"].removeprefix("deployments/")
    run = line(trillium("run", "create", "iris-setosa", "iris", "--deployment", id, "--json", *at))
    assert run["state"] == "RUN_STATE_SUCCEEDED"
    assert run["deployment"] == loaded["name"]
    assert "temporary" not in run


async def test_a_run_that_fails_ends_the_command_with_1(
    trillium: Command, at: tuple[str, str]
) -> None:
    # Nothing starts within that.
    words = ("run", "create", "iris-setosa", "iris", "--limit", "0.01", "--id", "late")
    ended = trillium(*words, *at)
    assert ended.returncode == 1
    assert "late: iris-setosa on iris failed: " in ended.stdout
    assert trillium("run", "show", "late", *at).returncode == 0


async def test_models_and_datasets_are_added(
    trillium: Command, at: tuple[str, str], models: Path, tmp_path: Path
) -> None:
    known = {each["name"]: each for each in lines(trillium("models", "list", "--json", *at))}
    assert {"iris-setosa", "iris-versicolor", "iris-virginica"} <= set(known)
    artifact = models / "iris-setosa.onnx"
    added = line(trillium("models", "add", "mine", str(artifact), "--json", *at))
    assert added["class_label"] == "setosa"
    assert added["versions"][0]["digest"] == known["iris-setosa"]["versions"][0]["digest"]

    broken = tmp_path / "broken.onnx"
    broken.write_bytes(artifact.read_bytes()[:100])
    refused = trillium("models", "add", "broken", str(broken), *at)
    assert refused.returncode == 1
    assert "cannot open it" in refused.stderr

    table = tmp_path / "few.csv"
    names = known["iris-setosa"]["versions"][0]["feature_names"]
    table.write_text(",".join((*names, "label")) + "\n5.1,3.5,1.4,0.2,setosa\n")
    few = line(trillium("datasets", "add", "few", str(table), "--json", *at))
    assert few["versions"][0]["labelled"] is True
    assert "few" in trillium("datasets", "list", *at).stdout
    scored = line(trillium("run", "create", "mine", "few", "--json", *at))
    assert scored["evaluation"]["accuracy"] == 1.0

    table.write_text(",".join((*names, "label")) + "\n5.1,3.5,1.4,0.2,0\n")
    assert trillium("datasets", "add", "numbered", str(table), *at).returncode == 0
    shown = trillium("run", "create", "mine", "numbered", *at)
    assert shown.returncode == 0, shown.stderr
    assert "accuracy" not in shown.stdout
    assert "not evaluated: no row's label is a class" in " ".join(shown.stdout.split())

    unknown = trillium("datasets", "add", "few", str(tmp_path / "few.txt"), *at)
    assert unknown.returncode == 1
    assert unknown.stderr.endswith(".feather, .npy, or in .csv.gz\n")
    table.write_text("a,label\nred,setosa\n")
    wrong = trillium("datasets", "add", "few", str(table), *at)
    assert wrong.returncode == 1
    assert "red" in wrong.stderr

    again = trillium("models", "delete", "mine", "--version", "1", *at)
    assert (again.returncode, "only one" in again.stderr) == (1, True)
    # Another model has the same bytes.
    dry = trillium("models", "delete", "mine", "--dry-run", *at)
    assert dry.stdout == "mine: can be deleted, which frees 0 bytes\n"
    rows = trillium("run", "delete", scored["name"], *at)
    assert rows.stdout == f"{scored['name']}: deleted, with 1 rows of results\n"
    freed = trillium("datasets", "delete", "few", *at)
    assert freed.stdout.startswith("few: deleted; frees ")
    assert "few" not in trillium("datasets", "list", *at).stdout
    assert trillium("models", "delete", "mine", *at).stdout == "mine: deleted; frees 0 bytes\n"
    assert '"mine"' not in trillium("models", "list", "--json", *at).stdout


async def test_servers_status_and_doctor_show_what_is_up(
    trillium: Command, running: Up, at: tuple[str, str], models: Path
) -> None:
    (server,) = lines(trillium("servers", "--json", *at))
    assert server["runtime"] == "process"
    assert server["reachable"] is True

    where = ("--address", running.address, "--controller", running.controller_address)
    screen = trillium("status", *where)
    assert screen.returncode == 0, screen.stderr
    assert f"the controller at {running.controller_address} is serving" in screen.stdout
    facts = line(trillium("status", "--json", *where))
    loaded = [each["model"] for each in facts["controller"]["deployments"]]
    assert {"iris-setosa", "iris-versicolor", "iris-virginica"} <= set(loaded)
    alone = trillium("status", "--address", running.address, "--controller", "127.0.0.1:1")
    assert alone.returncode == 0
    assert "no controller: no answer from 127.0.0.1:1" in alone.stdout

    ports = ("--port", str(running.port), "--controller-port", str(running.controller_port))
    found = lines(trillium("doctor", "--json", "--models", str(models), *ports))
    states = {each["what"]: (each["state"], each["detail"]) for each in found}
    assert states["aggregator"] == ("good", f"one serves at {running.address}")
    assert states["controller"] == ("good", f"one serves at {running.controller_address}")
    assert states["models"][0] == "good"
    assert states[server["name"]][0] == "good"


def test_doctor_tells_how_to_fix_a_port_that_is_taken(
    trillium: Command, unused: tuple[int, int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ports = ("--port", str(port), "--controller-port", str(unused[1]))
        ended = trillium("doctor", *ports, "--gateway-port", str(unused[0]), "--json")
        without = trillium("doctor", *ports, "--gateway-port", str(port), "--json")
    assert ended.returncode == 1
    found = {each["what"]: each for each in map(json.loads, ended.stdout.splitlines())}
    assert found["aggregator"]["state"] == "bad"
    assert "choose another --port" in found["aggregator"]["fix"]
    assert found["controller"]["state"] == "good"
    assert found["gateway"]["state"] == "good"
    taken = {each["what"]: each for each in map(json.loads, without.stdout.splitlines())}
    assert taken["gateway"]["state"] == "warning"
    assert "choose another --gateway-port" in taken["gateway"]["fix"]


async def test_watch_tells_each_change(
    trillium: Command, at: tuple[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "watched"
    words = (sys.executable, "-m", "trillium", "deploy", "watch", "seen", "--json", *at)
    line(trillium("deploy", "create", "iris-setosa", "--id", "seen", "--json", *at))
    with output.open("wb") as file:
        watching = await asyncio.create_subprocess_exec(*words, env=environment, stdout=file)
    try:
        await eventually(lambda: "snapshot_end" in output.read_text())
        line(trillium("deploy", "terminate", "seen", "--json", *at))
        await eventually(lambda: "STATE_TERMINATED" in output.read_text())
    finally:
        watching.terminate()
        await asyncio.wait_for(watching.wait(), 60)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("deploy", "load", "nobody"), "`trillium deploy list` shows what there is"),
        (("deploy", "create", "nothing"), "`trillium models list` shows what there is"),
        (("run", "create", "iris-setosa", "void"), "`trillium datasets list` shows what there is"),
        (("run", "show", "none"), "`trillium run list` shows what there is"),
        (("run", "create", "iris-setosa", "iris", "--id", "../x"), "run_id"),
        (("deploy", "create", "iris-setosa", "--cpus", "0"), "limits.cpus"),
        (("models", "add", "../x", "pyproject.toml"), "name"),
    ],
)
async def test_what_cannot_be_is_one_sentence_and_the_next_step(
    trillium: Command, at: tuple[str, str], words: tuple[str, ...], what: str
) -> None:
    ended = trillium(*words, *at)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("trillium: ")
    assert ended.stderr.count("\n") == 1
    assert what in ended.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("deploy", "list"),
        ("deploy", "watch"),
        ("run", "list"),
        ("run", "watch", "x"),
        ("models", "list"),
        ("datasets", "list"),
        ("servers",),
    ],
)
def test_nobody_there_is_one_sentence_and_a_next_step(
    trillium: Command, words: tuple[str, ...]
) -> None:
    ended = trillium(*words, *NOBODY)
    assert ended.returncode == 1
    assert ended.stderr.startswith("trillium: no answer from 127.0.0.1:1: ")
    assert ended.stderr.endswith("; `trillium up` starts one, --address names another\n")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("deploy", "create", "m", "--memory", "much"), "expected a size such as 512MiB or 1.5GiB"),
        (("deploy", "create", "m", "--replicas", "0"), "--replicas"),
        (("deploy", "list", "--state", "well"), "expected one of creating,"),
        (("run", "list", "--state", "well"), "expected one of queued,"),
        (("run", "results", "r", "--csv", "--json"), "cannot be combined"),
        (("run", "create", "m", "d", "--limit", "0"), "above 0"),
        (("models", "add", "m"), "artifact"),
    ],
)
def test_a_wrong_command_line_is_refused_as_such(
    trillium: Command, words: tuple[str, ...], what: str
) -> None:
    ended = trillium(*words)
    assert ended.returncode == 2
    assert what in " ".join(ended.stderr.split()).replace("ARTIFACT", "artifact")
