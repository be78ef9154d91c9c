"""Settings of a predictor: flags, environment, defaults, and every problem at once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from predictor.config import SETTINGS, PredictorConfig, from_command_line
from trillium.model.declared import DeclaredFacts
from trillium.server.config import ConfigError, variable_of


def problems_of(arguments: list[str], environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_command_line(arguments, environment or {})
    return list(caught.value.problems)


def test_nothing_said_gives_the_defaults_of_the_config() -> None:
    assert from_command_line([], {}) == PredictorConfig()


def test_every_setting_has_a_place_in_the_config() -> None:
    told = {setting.name for setting in SETTINGS} - {
        "class_label",
        "positive_column",
        "output_name",
    }
    assert told | {"declared"} == {each.name for each in fields(PredictorConfig)}


def test_the_command_line_of_the_readme_is_understood() -> None:
    line = "--model m.onnx --class-label setosa --positive-column 0 --listen 127.0.0.1:50061"
    assert from_command_line(line.split(), {}) == PredictorConfig(
        listen="127.0.0.1:50061",
        model=Path("m.onnx"),
        declared=DeclaredFacts(class_label="setosa", positive_column=0),
    )


def test_every_setting_can_be_made_by_flag_and_by_environment(tmp_path: Path) -> None:
    texts = {
        "listen": "unix:/tmp/p.sock",
        "model": "m.onnx",
        "models_dir": str(tmp_path),
        "class_label": "setosa",
        "positive_column": "1",
        "output_name": "p",
        "threads": "2",
        "max_rows": "10",
        "max_message_bytes": "2048",
        "max_bytes_in_flight": "8192",
        "max_model_bytes": "4096",
        "drain_s": "0.5",
        "parent_pid": "7",
        "anonymous": "Infer",
        "tokens": "tokens.json",
        "metrics_listen": "127.0.0.1:9464",
        "tls_cert": "cert.pem",
        "tls_key": "key.pem",
        "local_users": "No",
        "insecure": "Yes",
        "log_level": "DEBUG",
    }
    assert texts.keys() == {setting.name for setting in SETTINGS}
    flags = [part for setting in SETTINGS for part in (setting.option, texts[setting.name])]
    variables = {variable_of("predictor", setting): texts[setting.name] for setting in SETTINGS}
    expected = PredictorConfig(
        listen="unix:/tmp/p.sock",
        model=Path("m.onnx"),
        models_dir=tmp_path,
        declared=DeclaredFacts(class_label="setosa", positive_column=1, output_name="p"),
        threads=2,
        max_rows=10,
        max_message_bytes=2048,
        max_bytes_in_flight=8192,
        max_model_bytes=4096,
        drain_s=0.5,
        parent_pid=7,
        anonymous="infer",
        tokens=Path("tokens.json"),
        metrics_listen="127.0.0.1:9464",
        tls_cert=Path("cert.pem"),
        tls_key=Path("key.pem"),
        local_users="no",
        insecure="yes",
        log_level="debug",
    )
    assert from_command_line(flags, {}) == expected
    assert from_command_line([], variables) == expected


def test_flag_wins_over_environment_and_environment_over_default() -> None:
    environment = {"TRILLIUM_PREDICTOR_THREADS": "2", "TRILLIUM_PREDICTOR_MAX_ROWS": "3"}
    config = from_command_line(["--threads", "4"], environment)
    assert (config.threads, config.max_rows, config.drain_s) == (4, 3, 10.0)


def test_empty_variable_counts_as_not_set() -> None:
    assert from_command_line([], {"TRILLIUM_PREDICTOR_THREADS": ""}).threads == 1


def test_every_problem_is_told_at_once_with_where_it_comes_from(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    problems = problems_of(
        ["--threads", "0", "--drain-s=nan", "--listen", "nowhere", "--models-dir", str(missing)],
        {"TRILLIUM_PREDICTOR_LOG_LEVEL": "loud", "TRILLIUM_PREDICTOR_MAX_ROWS": "many"},
    )
    for source in (
        "--threads=0: expected a whole number from 1 to 256",
        "--drain-s=nan: expected a number of seconds from 0 to 3600",
        "--listen=nowhere: expected host:port or unix:/path",
        f"--models-dir={missing}: ",
        "TRILLIUM_PREDICTOR_LOG_LEVEL=loud: expected one of debug",
        "TRILLIUM_PREDICTOR_MAX_ROWS=many: expected a whole number",
    ):
        assert any(problem.startswith(source) for problem in problems), source
    assert len(problems) == 6


@pytest.mark.parametrize("flag", ["--class-label=a", "--positive-column=0", "--output-name=p"])
def test_facts_without_a_model_are_a_mistake(flag: str) -> None:
    (problem,) = problems_of([flag])
    assert "go with --model" in problem


@pytest.mark.parametrize(
    "text", ["50061", ":50061", "host:", "host:65536", "host:-1", "::1:50061", "unix:", "h:٣٣"]
)
def test_address_that_is_none_is_refused(text: str) -> None:
    (problem,) = problems_of([f"--listen={text}"])
    assert problem.startswith(f"--listen={text}: ")


@pytest.mark.parametrize("text", ["0.0.0.0:0", "[::1]:50061", "unix:/a", "localhost:65535"])
def test_address_is_taken(text: str) -> None:
    assert from_command_line([f"--listen={text}"], {}).listen == text


def test_unknown_flag_ends_the_program_and_names_the_flag(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        from_command_line(["--thread-count", "2"], {})
    assert caught.value.code == 2
    assert "--thread-count" in capsys.readouterr().err


def test_help_tells_every_flag_variable_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        from_command_line(["--help"], {})
    assert caught.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for setting in SETTINGS:
        assert setting.option in told
        assert variable_of("predictor", setting) in told
    assert "(default 127.0.0.1:50061)" in told
