"""The parts of the command that need no process."""

from __future__ import annotations

import io
import json
import re
import socket
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from trillium.cli import ports
from trillium.cli.calling import calls
from trillium.cli.ensemble import Described, Example, artifacts, in_class_order
from trillium.cli.loading import deployment_id
from trillium.cli.processes import how_it_ended, last_words, restart_delay_s
from trillium.cli.rows import from_csv, from_words
from trillium.cli.run import Evaluation, Run, confusion_table, run_line
from trillium.cli.show import JsonLines, Score, score_json, score_table
from trillium.process import StartFailed


def shown(scores: Sequence[Score], names: Sequence[str] = ()) -> str:
    """A table of scores as text of 100 columns."""
    text = io.StringIO()
    Console(file=text, width=100).print(score_table(names, scores))
    return text.getvalue()


def no_names() -> tuple[str, ...]:
    return ()


def test_rows_of_csv_may_have_a_header_and_spaces() -> None:
    rows = from_csv(["a, b", "1, 2", "", " 3 ,4e-1"], "x", no_names)
    assert list(rows) == [[1, 2], [3, 0.4]]


def test_csv_without_a_header_loses_no_row() -> None:
    assert list(from_csv(["1,2", "-3,.5"], "x", no_names)) == [[1, 2], [-3, 0.5]]


@pytest.mark.parametrize(
    ("lines", "names", "rows"),
    [
        (["kind,b,a", "iris,1,2"], "ab", [[2, 1]]),
        ([" b , a ", "1,2"], "ab", [[2, 1]]),
        (["a,x,b,x", "1,2,3,4"], "ab", [[1, 3]]),
        (["0,1,2,3", "9,8,7,6"], "0123", [[9, 8, 7, 6]]),
        (["3,2,1,0", "9,8,7,6"], "0123", [[6, 7, 8, 9]]),
        (["4,0,1,2,3", "5,9,8,7,6"], "0123", [[9, 8, 7, 6]]),
        (["0,1,2,4", "9,8,7,6"], "0123", [[0, 1, 2, 4], [9, 8, 7, 6]]),
        (["5.1,3.5", "9,8"], "ab", [[5.1, 3.5], [9, 8]]),
    ],
)
def test_a_header_is_what_names_the_features_and_orders_the_columns(
    lines: list[str], names: str, rows: list[list[float]]
) -> None:
    assert list(from_csv(lines, "x", lambda: list(names))) == rows


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "x holds no rows"),
        (["a,b"], "x holds no rows"),
        (["1,2", "3"], "x, line 2: 1 values, and the first line has 2"),
        (["1,2", "3,?"], "x, line 2: '\\?' is no number"),
        (["kind,b,a", "1"], "x, line 2: 1 values, and the first line has 3"),
        (["a,b", "0,1,2"], "x, line 2: 3 values, and the first line has 2"),
        (["B,A", "2,1"], "line 1 is no header of the model: no column is named 'a', 'b': expected"),
        (["", "a,c", "2,1"], "x, line 2 is no header .* no column is named 'b'.* got 'a', 'c'"),
        (["a,b,b", "1,2,3"], "more than one column is named 'b'"),
        (["5.1,?", "2,1"], "got '5.1', '\\?'; correct the names, or leave the header out"),
        (["5.1,", "2,1"], "line 1 is no header"),
    ],
)
def test_what_is_wrong_with_csv_is_said_with_its_line(lines: list[str], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        list(from_csv(lines, "x", lambda: ("a", "b")))


@pytest.mark.parametrize("first", ["b,b", "a,5.1", "a,", "5.1,?", ",5.1"])
def test_first_line_that_may_be_a_row_is_no_header_of_a_model_without_names(first: str) -> None:
    with pytest.raises(ValueError, match="x, line 1 is no header"):
        list(from_csv([first, "1,2"], "x", no_names))


def test_numbers_of_unnamed_columns_are_no_row_of_a_model_with_names() -> None:
    for first in ("0,1", "1,0"):
        with pytest.raises(ValueError, match=f"x, line 1 is {first}: the numbers of columns"):
            list(from_csv([first, "2,3"], "x", lambda: ("a", "b")))
    assert list(from_csv(["1,0", "2,3"], "x", lambda: ("0", "1"))) == [[3, 2]]
    assert list(from_csv(["0.0,1.0"], "x", lambda: ("a", "b"))) == [[0, 1]]


def test_rows_are_read_only_as_they_are_asked_for() -> None:
    def endless() -> Iterator[str]:
        yield from ["1,2", "3,4"]
        raise AssertionError("nobody has asked for this line")

    rows = from_csv(endless(), "x", no_names)
    assert [next(rows), next(rows)] == [[1, 2], [3, 4]]


def test_words_make_one_row() -> None:
    assert from_words(["1", "-2.5"]) == [[1, -2.5]]


def test_wanted_ports_must_differ() -> None:
    first = ports.Wanted(20001, "the aggregator", "--port")
    second = ports.Wanted(20001, "the controller", "--controller-port")
    with pytest.raises(StartFailed, match="wanted for the aggregator and for the controller"):
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


def described(label: str, ensemble: str = "e", labels: tuple[str, ...] = ("b", "a")) -> Described:
    return Described(f"e-{label}", ensemble, label, labels, (), ())


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
        ([described("a"), described("b", "other")], "is of the ensemble other, and e is wanted"),
        ([described("a", "")], r'of no ensemble, .* write \{"ensemble": "e"\} into m/e-a.json'),
    ],
)
def test_artifacts_that_make_no_ensemble_are_refused(found: list[Described], what: str) -> None:
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
        ("", "it said nothing"),
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
    assert "\u2717 b" in text
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


@pytest.mark.parametrize("model", ["iris-setosa", "digits-0", "a"])
def test_a_name_that_is_an_id_stays_as_it_is(model: str) -> None:
    assert deployment_id(model) == model


@pytest.mark.parametrize(
    "model", ["Iris-Setosa", "iris_setosa", "iris.setosa", "0-a", "-", "x" * 41, "a-", "\u00e4"]
)
def test_a_name_that_is_no_id_is_made_one(model: str) -> None:
    id = deployment_id(model)
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,38}[a-z0-9]", id)
    assert id not in {deployment_id(other) for other in ("iris-setosa", "a", "x" * 42)}


def test_a_run_is_told_with_its_confusion() -> None:
    evaluation = Evaluation(0.75, ("a", "rest"), ((1, 1), (0, 2)))
    text = io.StringIO()
    console = Console(file=text, width=100)
    console.print(run_line(Run("runs/r", "e-a", "e", 4, 1.25, "", evaluation)))
    console.print(confusion_table(evaluation))
    first, *rest = text.getvalue().splitlines()
    assert first == "runs/r: e-a on the dataset e: 4 rows in 1.2 s, accuracy 0.750"
    cells = [line.split() for line in rest]
    assert ["a", "1", "1"] in cells
    assert ["rest", "0", "2"] in cells


def test_a_run_that_failed_is_told_with_the_reason() -> None:
    line = run_line(Run("runs/r", "e-a", "e", 0, 1.0, "no room", None))
    assert line.plain == "runs/r: e-a on the dataset e: no result: no room"


def test_a_run_without_an_evaluation_says_why() -> None:
    line = run_line(Run("runs/r", "e-a", "e", 4, 1.25, "", None, "not evaluated: labels"))
    assert line.plain == "runs/r: e-a on the dataset e: 4 rows in 1.2 s; not evaluated: labels"
    line = run_line(Run("runs/r", "e-a", "e", 4, 1.25, "", None))
    assert line.plain == "runs/r: e-a on the dataset e: 4 rows in 1.2 s"


def test_a_start_is_told_to_programs_in_lines_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    screen = JsonLines()
    screen.say("starting ...")
    screen.scores("iris", ("a", "b"), [Score((1.0, 2.0), "x", "x", {"x": 0.75}, took_ms=1.5)])
    evaluation = Evaluation(0.5, ("x", "rest"), ((1, 0), (1, 0)))
    screen.run(Run("runs/r", "m", "d", 2, 0.5, "", evaluation))
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
