"""`trillium up` as a person runs it, with real processes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import UP_S, Up, alive
from tests.waiting import eventually
from trillium import AsyncClient, PredictorState
from trillium.cli.ports import is_free

StartUp = Callable[..., Up]
LABELS = ("setosa", "versicolor", "virginica")


async def test_the_demo_shows_the_right_labels_and_leaves_nothing(start_up: StartUp) -> None:
    demo = start_up("--demo")
    children: set[int] = set()

    def ended() -> bool:
        children.update(demo.children())
        return demo.process.poll() is not None

    await eventually(ended, UP_S)
    assert demo.process.returncode == 0, demo.complained
    assert len(children) == 4
    assert not any(map(alive, children))
    for label in LABELS:
        assert len(re.findall(rf"  {label} .*\u2713 {label} ", demo.said)) == 2, demo.said
    assert demo.complained == ""


async def test_ctrl_c_stops_everything_and_is_a_success(start_up: StartUp) -> None:
    running = start_up()
    await running.until_up()
    children = running.children()
    assert len(children) == 4
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 0
    assert not any(map(alive, children))
    assert running.complained == ""
    for log in (running.folder / ".trillium" / "logs").iterdir():
        assert "draining" in log.read_text()


async def test_ctrl_c_during_the_start_stops_everything(start_up: StartUp) -> None:
    running = start_up()
    await eventually(lambda: len(running.children()) == 3, UP_S)
    children = running.children()
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 0
    assert not any(map(alive, children))


async def test_a_second_ctrl_c_ends_all_at_once(start_up: StartUp) -> None:
    running = start_up()
    await running.until_up()
    children = running.children()
    stuck = running.child("aggregator")
    os.kill(stuck, signal.SIGSTOP)
    running.process.send_signal(signal.SIGINT)
    await running.until("stopping")
    running.process.send_signal(signal.SIGINT)
    assert await running.ended() == 128 + signal.SIGINT
    await eventually(lambda: not any(map(alive, children)))


async def test_children_end_when_up_itself_is_killed(start_up: StartUp) -> None:
    running = start_up()
    await running.until_up()
    children = running.children()
    running.process.kill()
    await running.ended()
    await eventually(lambda: not any(map(alive, children)))


async def test_a_killed_predictor_is_started_again(start_up: StartUp) -> None:
    running = start_up()
    await running.until_up()
    killed = running.child("versicolor.onnx")
    os.kill(killed, signal.SIGKILL)
    await running.until(f"predictor iris-versicolor (pid {killed}) was ended by SIGKILL")
    async with AsyncClient(running.address) as client:

        async def lost() -> bool:
            return (await client.predictors())[1].state is not PredictorState.READY

        await eventually(lost)
        await running.until("predictor iris-versicolor started again")
        await eventually(client.is_serving)
        assert {each.state for each in await client.predictors()} == {PredictorState.READY}
        assert (await client.classify([7.0, 3.2, 4.7, 1.4])).labels.tolist() == ["versicolor"]
    assert len(running.children()) == 4


async def test_a_port_that_somebody_took_meanwhile_is_left_to_him(start_up: StartUp) -> None:
    running = start_up()
    await running.until_up()
    port = running.port + 1
    os.kill(running.child("setosa.onnx"), signal.SIGKILL)
    await eventually(lambda: is_free(port))
    with socket.create_server(("127.0.0.1", port)):
        await running.until(f"port {port} has been taken by another process")
    await running.until("predictor iris-setosa started again")


async def test_a_taken_port_is_named_with_the_option_to_change(start_up: StartUp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        running = start_up(port=port)
        assert await running.ended() == 1
    assert running.complained == (
        f"trillium: port {port}, wanted for the aggregator, is in use or not allowed; stop what "
        "listens there or choose another --port\n"
    )


async def test_missing_models_are_told_with_the_way_to_them(
    start_up: StartUp, tmp_path: Path
) -> None:
    running = start_up("--ensemble", "wine", folder=tmp_path)
    assert await running.ended() == 1
    assert running.complained == (
        f"trillium: there are no models of wine in {tmp_path}; train them first: "
        "make models ENSEMBLE=wine (or scripts/train_models.py --ensemble wine)\n"
    )


@pytest.mark.parametrize("label", ["setosa", "virginica"])
async def test_a_corrupt_artifact_is_told_in_a_sentence(
    start_up: StartUp, models: Path, tmp_path: Path, label: str
) -> None:
    damaged = tmp_path / "models"
    shutil.copytree(models, damaged)
    (damaged / f"iris-{label}.onnx").write_bytes(b"no model")
    running = start_up(folder=damaged)
    children: set[int] = set()

    def ended() -> bool:
        children.update(running.children())
        return running.process.poll() is not None

    await eventually(ended, UP_S)
    assert running.process.returncode == 1
    sentence = running.complained
    assert sentence.count("\n") == 1
    assert f"iris-{label}.onnx is refused" in sentence
    assert "delete it and run: make models" in sentence
    assert children
    assert not any(map(alive, children))


async def test_a_class_without_an_artifact_is_named(
    start_up: StartUp, models: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "models"
    shutil.copytree(models, partial)
    (partial / "iris-versicolor.onnx").unlink()
    running = start_up(folder=partial)
    assert await running.ended() == 1
    assert "no model of iris for versicolor" in running.complained
    assert not running.children()


async def test_logs_that_cannot_be_written_are_told(start_up: StartUp, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    running = start_up("--logs", str(tmp_path / "file"))
    assert await running.ended() == 1
    assert "choose another folder with --logs" in running.complained
