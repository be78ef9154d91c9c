"""The parts of the command that need no process."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from trillium.cli import ports
from trillium.cli.calling import calls
from trillium.cli.ensemble import artifacts, in_class_order
from trillium.cli.options import note
from trillium.cli.plain import PlainTable
from trillium.cli.run import ShownEvaluation, ShownRun, confusion_table, run_line
from trillium.cli.show import JsonLines, Score, score_json, score_table
from trillium.cli.up.servers import last_words, restart_delay_s
from trillium.model.description import Example, ModelDescription
from trillium.server.children import how_it_ended
from trillium.server.process import StartFailed


def shown(scores: Sequence[Score], names: Sequence[str] = ()) -> str:
    """A table of scores as text of 100 columns."""
    text = io.StringIO()
    Console(file=text, width=100).print(score_table(names, scores))
    return text.getvalue()


def test_wanted_ports_must_differ() -> None:
    first = ports.Wanted(20001, "the aggregator", "--port")
    second = ports.Wanted(20001, "the controller", "--controller-port")
    with pytest.raises(StartFailed, match="given to both the aggregator and the controller"):
        ports.check([first, second])


def test_wanted_ports_must_exist() -> None:
    with pytest.raises(StartFailed, match="choose a lower --controller-port"):
        ports.check([ports.Wanted(65536, "the controller", "--controller-port")])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_with_a_listener_is_not_free(host: str) -> None:
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
    assert ports.is_free(port)


def test_artifacts_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 1):
        (tmp_path / f"digits-{number}.onnx").touch()
    (tmp_path / "iris-setosa.onnx").touch()
    names = [path.stem for path in artifacts(tmp_path, "digits")]
    assert names == ["digits-1", "digits-9", "digits-10"]


def described(
    label: str, ensemble: str = "e", labels: tuple[str, ...] = ("b", "a")
) -> ModelDescription:
    return ModelDescription(4, label, (), ensemble, labels, name=f"e-{label}")


def test_predictors_are_put_in_class_order() -> None:
    found = in_class_order("e", Path("m"), [described("a"), described("b")])
    assert [each.class_label for each in found] == ["b", "a"]


def test_without_a_known_class_order_they_stay_as_they_are() -> None:
    found = [described("b", labels=()), described("a", labels=())]
    assert in_class_order("e", Path("m"), found) == found


@pytest.mark.parametrize(
    ("found", "what"),
    [
        ([described("a")], "no model of e for b"),
        ([described("a"), described("b"), described("b")], "not one model for each"),
        ([described("a"), described("b"), described("c")], "not one model for each"),
        ([described("a"), described("b", "other")], "is of the ensemble other: expected e"),
        (
            [described("a", "")],
            r'of no ensemble: expected e; write \{"ensemble": "e"\} into m/e-a.json',
        ),
    ],
)
def test_artifacts_that_make_no_ensemble_are_refused(
    found: list[ModelDescription], what: str
) -> None:
    with pytest.raises(StartFailed, match=what):
        in_class_order("e", Path("m"), found)


def test_restarts_slow_down_to_half_a_minute() -> None:
    assert [restart_delay_s(deaths) for deaths in (1, 2, 3, 4, 5, 1000)] == [0.5, 1, 2, 4, 8, 30]


def test_an_end_is_told_in_words() -> None:
    assert how_it_ended(3) == "ended with exit status 3"
    assert how_it_ended(-9) == "was ended by SIGKILL"
    assert how_it_ended(-99) == "was ended by signal 99"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "it printed nothing"),
        ("first\nlast\n\n", "last"),
        ("controller: no such model\n", "no such model"),
        (json.dumps({"message": "broken", "level": "ERROR"}), "broken"),
        ("[1]", "[1]"),
    ],
)
def test_last_words_are_read_from_a_log(tmp_path: Path, text: str, words: str) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    assert last_words(log) == words


def test_a_few_features_have_a_column_each() -> None:
    text = shown([Score((7.0, 0.25), "a", "a", {"a": 0.75, "b": 0.25}, 1.25)], ["f_one", "f_two"])
    assert "one" in text
    assert "7.0" in text
    assert "\u2713 a" in text


def test_many_features_and_classes_are_cut_short() -> None:
    labels = [f"class-{number}" for number in range(40)]
    probabilities = {label: number / 40 for number, label in enumerate(labels)}
    text = shown(
        [Score(tuple(map(float, range(64))), label="class-39", probabilities=probabilities)]
    )
    assert text.split()[0] == "row"
    assert "class-39 0.975, class-38 0.950, class-37 0.925" in text


def test_ten_digits_fit_a_hundred_columns() -> None:
    probabilities = {str(digit): 0.1 for digit in range(10)}
    score = Score(tuple(map(float, range(64))), "3", "3", probabilities, 12.5)
    lines = shown([score]).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("0.100" in line for line in lines) == 1


def test_a_wrong_label_and_a_failure_stand_out() -> None:
    text = shown([Score((1.0,), "a", "b", {"a": 0.1, "b": 0.9}), Score((1.0,), "a", error="no")])
    assert "\u2717 b, not a" in text
    assert "no answer" in text


def test_a_score_as_json_names_its_probability() -> None:
    score = Score((1.0,), label="a", probabilities={"a": 0.9, "b": 0.2})
    assert score_json(score)["probability"] == 0.9


def test_what_is_suggested_first_is_installed_with_trillium(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("python", "trillium"):
        (tmp_path / name).touch(mode=0o700)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "")
    (first, call), (python, _), *others = calls("127.0.0.1:7", "127.0.0.1:8", (5.1,)).items()
    assert (first, call[0].split()[1:3]) == ("Command line", ["classify", "5.1"])
    assert Path(call[0].split()[0]).resolve() == tmp_path / "trillium"
    assert Path(python.removeprefix("Python (").rstrip(")")).resolve() == tmp_path / "python"
    assert len(others) == 2
    assert all("once grpcurl is installed" in title for title, _ in others)


def test_calls_can_be_copied() -> None:
    lines = calls("127.0.0.1:7", "127.0.0.1:8", Example((5.1, 1234567.0), "").features)
    (classify,) = lines["Aggregator at 127.0.0.1:7"]
    assert '\'{"instances":[{"features":[5.1,1234567]}]}\' 127.0.0.1:7 trillium.' in classify
    assert lines["Command line"][0].endswith("classify 5.1 1234567 --address 127.0.0.1:7")
    (list_deployments,) = lines["Controller at 127.0.0.1:8"]
    assert list_deployments.endswith(
        "127.0.0.1:8 trillium.controller.v1.ControllerService/ListDeployments"
    )


def test_a_run_is_told_with_its_confusion() -> None:
    evaluation = ShownEvaluation(0.75, ("a", "rest"), ((1, 1), (0, 2)))
    text = io.StringIO()
    console = Console(file=text, width=100)
    console.print(run_line(ShownRun("runs/r", "e-a", "e", 4, 1.25, "", evaluation)))
    console.print(confusion_table(evaluation))
    first, *rest = text.getvalue().splitlines()
    assert first == "r: e-a on e: 4 rows in 1.2 s, accuracy 0.750"
    cells = [line.split() for line in rest]
    assert ["a", "1", "1"] in cells
    assert ["rest", "0", "2"] in cells


def test_a_run_that_failed_is_told_with_the_reason() -> None:
    line = run_line(ShownRun("runs/r", "e-a", "e", 0, 1.0, "no room", None))
    assert line.plain == "r: e-a on e failed: no room"


def test_a_run_without_an_evaluation_says_why() -> None:
    line = run_line(ShownRun("runs/r", "e-a", "e", 4, 1.25, "", None, "not evaluated: labels"))
    assert line.plain == "r: e-a on e: 4 rows in 1.2 s; not evaluated: labels"
    line = run_line(ShownRun("runs/r", "e-a", "e", 4, 1.25, "", None))
    assert line.plain == "r: e-a on e: 4 rows in 1.2 s"


@pytest.mark.parametrize(
    ("took_ms", "shown"), [(0.04, "0.0"), (9.94, "9.9"), (9.96, "10"), (10.4, "10"), (123.4, "123")]
)
def test_a_time_never_widens_the_table(took_ms: float, shown: str) -> None:
    table = score_table((), [Score((1.0,), label="x", probabilities={"x": 0.75}, took_ms=took_ms)])
    assert [str(cell) for cell in table.columns[-1].cells] == [shown]


def test_a_start_is_told_to_programs_in_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    screen = JsonLines()
    screen.say("starting ...")
    screen.scores("iris", ("a", "b"), [Score((1.0, 2.0), "x", "x", {"x": 0.75}, took_ms=1.5)])
    evaluation = ShownEvaluation(0.5, ("x", "rest"), ((1, 0), (1, 0)))
    screen.run(ShownRun("runs/r", "m", "d", 2, 0.5, "", evaluation))
    screen.how_to_call("127.0.0.1:1", "127.0.0.1:2", [], ["127.0.0.1:3"])
    screen.event("iris-setosa is loaded")
    screen.problem("it broke")
    start, scores, run, up, change, problem = map(json.loads, capsys.readouterr().out.splitlines())
    assert start == {"event": "progress", "message": "starting ..."}
    (score,) = scores["scores"]
    assert (scores["ensemble"], scores["feature_names"]) == ("iris", ["a", "b"])
    assert (score["label"], score["probabilities"], score["took_ms"]) == ("x", {"x": 0.75}, 1.5)
    assert (run["event"], run["name"], run["evaluation"]["accuracy"]) == ("run", "runs/r", 0.5)
    where = {"aggregator": "127.0.0.1:1", "controller": "127.0.0.1:2", "gateways": ["127.0.0.1:3"]}
    assert up == {"event": "up", **where}
    assert (change["event"], change["message"]) == ("change", "iris-setosa is loaded")
    assert datetime.fromisoformat(change["time"]).tzinfo is not None
    assert problem == {"event": "problem", "message": "it broke"}


def test_what_others_named_is_shown_as_text() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, highlight=False)
    table = PlainTable()
    table.add_column("[bold]x[/bold]")
    table.add_column("\x1b]0;y\x07")
    table.add_row("\x1b[2J[link=http://evil.example]setosa[/link]", Text("a\u202eb", style="red"))
    console.print(table)
    shown = out.getvalue()
    for text in ("[bold]x[/bold]", r"\x1b]0;y\x07", r"\x1b[2J[link=", "[/link]", r"a\u202eb"):
        assert text in shown
    assert not re.search("\x1b[^[]|\x1b\\[[^m]*[^0-9;m]|\x07|\u202e", shown)


def test_message_on_standard_error_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    note("no class '\x1b[31mred'")
    assert capsys.readouterr().err == "trillium: no class '\\x1b[31mred'\n"


def test_narrow_terminal_folds_what_is_wide() -> None:
    out = io.StringIO()
    table = PlainTable()
    for name in ("a", "b"):
        table.add_column(name, justify="right")
    table.add_row("-2.0492345678", "-3.14159265358")
    Console(file=out, width=12).print(table)
    assert "\u2026" not in out.getvalue()
    assert "".join(out.getvalue().split()).count("2") >= 2
