"""`trillium up` as a person runs it, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import onnx
import pytest

from tests.cli.conftest import ROOT, Command, Starter, Up, alive
from tests.freezing import freeze
from tests.kit.modes import every, wide
from tests.ports import free_ports
from tests.waiting import eventually
from trillium import AsyncClient, AsyncControllerClient, PredictorState
from trillium.cli.ports import is_free
from trillium.controller.v1 import deployment_pb2 as deployment_pb

LABELS = ("setosa", "versicolor", "virginica")
IDS = [f"iris-{label}" for label in LABELS]


def test_the_first_demo_shows_labels_and_a_run_and_leaves_nothing(first_demo: Path) -> None:
    assert (first_demo / "stderr").read_text() == ""
    said = (first_demo / "stdout").read_text()
    assert f"applying iris with 3 classes: {', '.join(IDS)} ..." in said
    for label in LABELS:
        assert len(re.findall(rf" \u2713 {label} ", said)) == 2, said
    assert re.search(r"\w+: iris-virginica on iris: 150 rows in .* s, accuracy 0\.9\d\d", said)
    confusion = re.findall(r"^ *(?:virginica|rest) +(\d+) +(\d+) *$", said, re.MULTILINE)
    assert sum(int(count) for row in confusion for count in row) == 150, said
    assert max(map(len, said.splitlines())) <= 80, said


async def test_a_restart_resumes_and_ctrl_c_stops_everything(
    start_up: Starter, state: Path
) -> None:
    running = start_up(state=state)
    await running.until_up()
    assert re.search(r"\nresuming iris revision 1, serving since [\d:]+ \.\.\.\n", running.said)
    async with AsyncControllerClient(running.controller_address) as controller:
        loaded = controller.deployments(states=[deployment_pb.STATE_LOADED])
        assert sorted([each.model async for each in loaded]) == IDS
    children = running.processes()
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 0
    assert not any(map(alive, children))
    assert running.complained == ""
    logs = list((running.folder / ".trillium" / "logs").glob(f"*-{running.port}.log"))
    logs += (running.folder / ".trillium" / "logs").glob(f"*-{running.controller_port}.log")
    assert len(logs) == 2
    for log in logs:
        assert "draining" in log.read_text()


async def test_two_ensembles_are_served_at_one_door(
    start_up: Starter, trillium: Command, models: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    shutil.copytree(models, both)
    trained = trillium("models", "train", "--builtin", "wine", "--output", str(both))
    assert trained.returncode == 0, trained.stderr
    gateway = free_ports(1)[0]
    words = ("--ensemble", "iris", "--ensemble", "wine", "--gateway-port", str(gateway))
    running = start_up(*words, "--gateway", models=both)
    await running.until("Ctrl-C stops everything")
    assert "\niris is up after " in running.said
    assert "\nwine is up after " in running.said
    # What is printed for copying names one of them.
    assert f"--address 127.0.0.1:{running.port} --ensemble iris" in running.said
    assert f"http://127.0.0.1:{gateway}/v1/ensembles/iris:classify" in running.said

    at = ("--address", f"127.0.0.1:{running.port}")
    flower, wine = ("5.1", "3.5", "1.4", "0.2"), ("13",) * 13
    labelled = trillium("classify", *flower, "--ensemble", "iris", "--json", *at)
    assert json.loads(labelled.stdout)["label"] == "setosa"
    predicted = trillium("predict", *wine, "--ensemble", "wine", "--json", *at)
    assert set(json.loads(predicted.stdout)["probabilities"]) == {"class_0", "class_1", "class_2"}
    for named, said in ((), "is missing"), (("--ensemble", "rose"), "is 'rose'"):
        refused = trillium("classify", *flower, *named, *at)
        assert refused.returncode == 1
        assert f"ensemble: {said}; this aggregator serves 'iris', 'wine'" in refused.stderr
    shown = trillium("status", *at, "--controller", running.controller_address).stdout
    for name in ("iris", "wine"):
        assert re.search(
            rf"^{name} at 127.0.0.1:{running.port} is serving; 3 classes", shown, re.MULTILINE
        )
    facts = json.loads(trillium("status", *at, "--json").stdout)
    assert [(each["name"], each["ready"]) for each in facts["ensembles"]] == [
        ("iris", True),
        ("wine", True),
    ]
    with urlopen(f"http://127.0.0.1:{gateway}/v1/ensembles", timeout=60) as answer:  # noqa: ASYNC210
        ensembles = json.load(answer)["ensembles"]
    assert [each["name"] for each in ensembles] == ["iris", "wine"]
    with urlopen(f"http://127.0.0.1:{gateway}/v1/ensembles/wine", timeout=60) as answer:  # noqa: ASYNC210
        assert json.load(answer)["feature_count"] == 13
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 0


async def test_what_a_running_system_keeps_is_its_users_alone(start_up: Starter) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        start_up.environment = {**start_up.environment, "TMPDIR": temporary}
        before = os.umask(0)
        try:
            running = start_up("--gateway", "--gateway-port", str(free_ports(1)[0]))
        finally:
            os.umask(before)
        await running.until("Ctrl-C stops everything")
        state = running.folder / ".trillium"
        names = {each.name for each in every(state)}
        assert {"controller.db", "controller.db-wal", "controller.db-shm", "lock"} <= names
        assert any(each.is_socket() for each in every(Path(temporary)))
        assert wide(state) + wide(Path(temporary)) == []
        running.process.send_signal(signal.SIGINT)
        assert await running.ended() == 0
        assert wide(state) + wide(Path(temporary)) == []


async def test_how_to_call_it_can_be_copied(running: Up) -> None:
    grpcurl = [line.strip() for line in running.said.splitlines() if "grpcurl -plaintext" in line]
    classify, list_deployments = grpcurl
    assert " -d '{" in classify
    assert running.address in classify
    asked = list_deployments.endswith("trillium.controller.v1.ControllerService/ListDeployments")
    assert asked, list_deployments
    assert f" {running.controller_address} " in list_deployments


async def test_a_restart_undoes_nothing_and_tells_of_a_model_that_is_newer(
    start_up: Starter, state: Path, models: Path, tmp_path: Path, trillium: Command
) -> None:
    retrained = tmp_path / "models"
    shutil.copytree(models, retrained)
    artifact = retrained / "iris-setosa.onnx"
    model = onnx.load(artifact)
    model.doc_string = "trained again"
    onnx.save(model, artifact)
    running = start_up(models=retrained, state=state)
    await running.until_up()
    newer = "; newer models of iris are registered: `trillium apply` serves them ..."
    assert f"{newer}\n" in running.said.replace("\n  ", " ")
    file = tmp_path / "iris.yaml"
    file.write_text("ensemble: iris\nclasses: [iris-setosa, iris-versicolor, iris-virginica]\n")
    at = ("--address", running.controller_address)
    planned = await asyncio.to_thread(trillium, "apply", str(file), "--plan", *at)
    assert planned.returncode == 2
    assert "class setosa: iris-setosa@1 -> iris-setosa@2" in planned.stdout
    applied = await asyncio.to_thread(trillium, "apply", str(file), *at)
    assert applied.returncode == 0, applied.stderr
    again = await asyncio.to_thread(trillium, "apply", str(file), "--plan", *at)
    assert (again.returncode, again.stdout) == (0, "nothing would change\n")
    async with AsyncClient(running.address) as client:
        await eventually(lambda: answers_with(client, 2))
        back = await asyncio.to_thread(trillium, "ensembles", "rollback", "iris", *at)
        assert back.returncode == 0, back.stderr
        await eventually(lambda: answers_with(client, 1))
    running.process.send_signal(signal.SIGTERM)
    assert await running.ended_with_all() == 0
    # What was rolled back is not undone.
    running = start_up(models=retrained, state=state)
    await running.until_up()
    assert "resuming iris revision 1, serving since " in running.said
    async with AsyncClient(running.address) as client:
        assert await answers_with(client, 1)
    running.process.send_signal(signal.SIGTERM)
    assert await running.ended_with_all() == 0


async def answers_with(client: AsyncClient, revision: int) -> bool:
    return (await client.classify([7.0, 3.2, 4.7, 1.4])).revision == revision


async def test_ctrl_c_during_the_start_stops_everything(start_up: Starter, state: Path) -> None:
    starting = start_up(state=state)
    await eventually(lambda: len(starting.processes("predictor")) > 0)
    starting.process.send_signal(signal.SIGINT)
    assert await starting.ended_with_all() == 0
    assert "stopping" in starting.said


async def test_it_serves_http_if_that_is_wanted(
    start_up: Starter, state: Path, trillium: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (port,) = free_ports(1)
    running = start_up("--gateway", "--gateway-port", str(port), state=state)
    await running.until("Ctrl-C stops everything")
    assert f"HTTP at http://127.0.0.1:{port}/docs" in running.said
    (call,) = re.findall(r"(?m)^  (curl .*)$", running.said)
    done = await asyncio.to_thread(
        subprocess.run, shlex.split(call), capture_output=True, check=True
    )
    assert json.loads(done.stdout)["prediction"]["label"] == "setosa"
    at = ("--address", running.address, "--controller", running.controller_address)
    told = trillium("status", *at, "--gateway", f"127.0.0.1:{port}", "--json")
    assert json.loads(told.stdout)["gateway"]["serving"] is True
    gateway = running.server("gateway")
    running.process.send_signal(signal.SIGINT)
    assert await running.ended_with_all() == 0
    assert not alive(gateway)


async def test_a_second_ctrl_c_ends_all_at_once(start_up: Starter, state: Path) -> None:
    running = start_up(state=state)
    await running.until_up()
    children = running.processes()
    freeze(running.server("aggregator"))
    running.process.send_signal(signal.SIGINT)
    await running.until("stopping")
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 128 + signal.SIGINT
    await eventually(lambda: not any(map(alive, children)))


async def test_everything_ends_when_up_itself_is_killed(start_up: Starter, state: Path) -> None:
    running = start_up(state=state)
    await running.until_up()
    children = running.processes()
    running.process.kill()
    await running.ended()
    await eventually(lambda: not any(map(alive, children)))


async def test_a_killed_predictor_is_brought_back_by_the_controller(
    running: Up, trillium: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    before, said = running.processes("predictor"), running.said
    lost = "iris-versicolor@1 is not loaded: its container ended"
    again = "iris-versicolor@1 is loaded again"
    async with AsyncClient(running.address) as client:
        victim = (await client.predictors())[1]
        socket_path = victim.address.removeprefix("unix:")
        (killed,) = [pid for pid, command in before.items() if socket_path in command]
        os.kill(killed, signal.SIGKILL)
        await running.until(lost, said.count(lost) + 1)
        await running.until(again, said.count(again) + 1)
        await eventually(lambda: is_whole(client))
        assert (await client.classify([7.0, 3.2, 4.7, 1.4])).labels.tolist() == ["versicolor"]
    status = await asyncio.to_thread(trillium, "status", "--address", running.address)
    assert status.stdout.count(" ready ") == 3
    assert len(set(running.processes("predictor")) - set(before)) == 1


async def test_a_killed_controller_is_started_again_and_resumes(running: Up) -> None:
    before = running.processes("predictor")
    killed, said = running.server("controller"), running.said
    os.kill(killed, signal.SIGKILL)
    await running.until(f"the controller (pid {killed}) was ended by SIGKILL; starting it again")
    await running.until("the controller started again")
    for id in IDS:
        again = f"{id}@1 is loaded again"
        await running.until(again, said.count(again) + 1)
    async with AsyncClient(running.address) as client:
        await eventually(lambda: is_whole(client))
        assert (await client.classify([7.0, 3.2, 4.7, 1.4])).labels.tolist() == ["versicolor"]
    now = running.processes("predictor")
    assert len(now) == 3
    assert not set(now) & set(before)
    assert not any(map(alive, before))


async def test_a_port_that_somebody_took_meanwhile_is_left_to_him(running: Up) -> None:
    said = running.said
    aggregator = running.server("aggregator")
    # While it stands still it starts nothing again.
    freeze(running.process.pid)
    os.kill(aggregator, signal.SIGKILL)
    await eventually(lambda: is_free(running.port))
    with socket.create_server(("127.0.0.1", running.port)):
        running.process.send_signal(signal.SIGCONT)
        await running.until(f"port {running.port} has been taken by another process")
    again = "the aggregator started again"
    await running.until(again, said.count(again) + 1)
    async with AsyncClient(running.address) as client:
        await eventually(lambda: is_whole(client))


async def is_whole(client: AsyncClient) -> bool:
    if not await client.is_serving():
        return False
    return [each.state for each in await client.predictors()] == [PredictorState.READY] * 3


@pytest.mark.parametrize(
    ("place", "what", "option"),
    [(0, "aggregator", "--port"), (1, "controller", "--controller-port")],
)
async def test_a_taken_port_is_named_with_the_option_to_change(
    start_up: Starter, unused: tuple[int, int], place: int, what: str, option: str
) -> None:
    with socket.create_server(("127.0.0.1", unused[place])):
        refused = start_up(ports=unused)
        assert await refused.ended_with_all() == 1
    assert refused.complained == (
        f"trillium: port {unused[place]}, needed for the {what}, is in use or not allowed; stop "
        f"what listens there or choose another {option}\n"
    )


async def test_another_trillium_on_the_port_is_named(start_up: Starter, running: Up) -> None:
    refused = start_up(ports=(running.port, running.controller_port))
    assert await refused.ended_with_all() == 1
    assert refused.complained == (
        f"trillium: port {running.port}, needed for the aggregator, is in use by another Trillium; "
        "stop that one or choose another --port\n"
    )


async def test_make_says_how_to_choose_other_ports(running: Up, models: Path) -> None:
    def make_run(port: int) -> subprocess.CompletedProcess[str]:
        made = ("make", f"--old-file={sys.prefix}/.run", f"VENV={sys.prefix}", f"MODELS={models}")
        words = (*made, "run", f"PORT={port}", f"STATE={running.folder / 'other'}")
        return subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )

    refused = await asyncio.to_thread(make_run, running.port)
    said = re.search(
        rf"port {running.port}, needed for the aggregator, is in use by another Trillium; stop "
        r"that one or choose other ports: make run PORT=(\d+)\n",
        refused.stderr,
    )
    assert said, refused.stderr
    assert is_free(int(said[1]))
    assert is_free(int(said[1]) + 1)


async def test_missing_models_are_told_with_the_way_to_them(
    start_up: Starter, tmp_path: Path
) -> None:
    refused = start_up("--ensemble", "wine", models=tmp_path)
    assert await refused.ended_with_all() == 1
    assert refused.complained == (
        f"trillium: there are no models of wine in {tmp_path}; train them first: "
        "make models ENSEMBLE=wine (or trillium models train --builtin wine)\n"
    )


async def test_a_corrupt_artifact_is_told_in_a_sentence(
    start_up: Starter, state: Path, models: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "models"
    shutil.copytree(models, damaged)
    (damaged / "iris-virginica.onnx").write_bytes(b"no model")
    refused = start_up(models=damaged, state=state)
    assert await refused.ended_with_all() == 1
    sentence = refused.complained
    assert sentence.count("\n") == 1
    assert sentence.startswith(f"trillium: {damaged}/iris-virginica.onnx is refused: ")
    assert sentence.endswith("if it is damaged, delete it and run: make models\n")


async def test_a_class_without_an_artifact_is_named(
    start_up: Starter, models: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "models"
    shutil.copytree(models, partial)
    (partial / "iris-versicolor.onnx").unlink()
    refused = start_up(models=partial)
    assert await refused.ended_with_all() == 1
    assert "no model of iris for versicolor" in refused.complained


async def test_a_store_that_cannot_be_used_is_told_in_a_sentence(
    start_up: Starter, tmp_path: Path
) -> None:
    broken = tmp_path / "state"
    broken.mkdir()
    (broken / "controller.db").write_bytes(b"no database" * 100)
    refused = start_up(state=broken)
    assert await refused.ended_with_all() == 1
    sentence = refused.complained
    assert sentence.count("\n") == 1
    assert "the controller ended with exit status 1 while starting: the store" in sentence


async def test_a_state_that_cannot_be_written_is_told(start_up: Starter, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = start_up("--state", str(tmp_path / "file"))
    assert await refused.ended_with_all() == 1
    assert "choose another folder with --state" in refused.complained


async def test_two_never_share_a_state(start_up: Starter, running: Up) -> None:
    refused = start_up("--state", str(running.folder / ".trillium"))
    assert await refused.ended_with_all() == 1
    assert "another `trillium up` keeps its state in" in refused.complained
