"""What README and docs/ show works, and prints what they say."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import aggregator.config
import predictor.config
from tests.docs.conftest import Live
from tests.docs.pages import ROOT, block_after, blocks, commands, page, prints, run, run_sessions

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


PYTHON = ("docs/python.md", "README.md", "docs/http.md", "docs/models.md", "docs/ensembles.md")


@pytest.mark.parametrize("name", PYTHON)
def test_python_sessions_print_what_the_page_shows(live: Live, name: str) -> None:
    assert run_sessions(name, page(name, live.addresses)) > 0


def test_the_example_of_a_test_passes(
    models: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    example = tmp_path / "test_example.py"
    block = block_after(page("docs/python.md", {}), "## In your tests")
    example.write_text(block.text, encoding="utf-8")
    (tmp_path / "models").symlink_to(models)
    # Without the plugins that development has.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", example.name]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**environment, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def modules_with_examples() -> Iterator[ModuleType]:
    for file in sorted((ROOT / "trillium").rglob("*.py")):
        if ">>> " in file.read_text(encoding="utf-8"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield importlib.import_module(".".join(parts).removesuffix(".__init__"))


def test_examples_of_docstrings_print_what_they_show(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = 0
    for module in modules_with_examples():
        for test in doctest.DocTestFinder(exclude_empty=True).find(module):
            for example in test.examples:
                for written, real in live.addresses.items():
                    example.source = example.source.replace(written, real)
            found += run(test)
    assert found > 0


@pytest.mark.parametrize("name", ["README.md", "docs/http.md"])
def test_shell_sessions_print_what_the_page_shows(
    live: Live, environment: dict[str, str], name: str
) -> None:
    ran = 0
    for block in blocks(page(name, live.addresses)):
        for command in commands(block):
            done = subprocess.run(
                ["bash", "-c", command.words],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, command.words + done.stderr
            shown, printed = without_instants(command.printed), without_instants(done.stdout)
            assert not shown.strip() or prints(shown, printed), command.words + done.stdout
            ran += 1
    assert ran > 0


def without_instants(text: str) -> str:
    """The text with one and the same instant in the place of all others."""
    return re.sub(r'"\d{4}-\d\d-\d\dT[\d:.]+Z"', '"1970-01-01T00:00:00Z"', text)


def test_the_readme_shows_what_starting_prints(live: Live) -> None:
    shown = block_after(page("README.md", live.addresses), "`make run` prints this").text
    said, _, _ = live.up.said.partition("\n\nCommand line")
    assert without_times(shown) == without_times(said)


def test_nothing_says_to_install_trillium_from_an_index_where_the_name_is_not_ours() -> None:
    code = [file for name in ("trillium", "gateway") for file in (ROOT / name).rglob("*.py")]
    files = [*PAGES, *code, ROOT / "notebooks" / "iris.ipynb", ROOT / "CHANGELOG.md"]
    by_name = re.compile(r"pip install [^`\n]*\btrillium(\[|['\"`\s=<>]|$)")
    assert [file for file in files if by_name.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_to_files_that_exist(file: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", file.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)#\s]+)", text)
    assert [link for link in links if is_lost(file, link)] == []


def is_lost(file: Path, link: str) -> bool:
    return "://" not in link and not (file.parent / link).exists()


def without_times(text: str) -> list[list[str]]:
    """The words of each line that has any, but for what differs from start to start."""
    text = re.sub(r"(?m)^iris is up after .*$|^r\w{16}: |\d+\.\d+ *$| in \d+\.\d+ s", "", text)
    # From 10 ms on, they are whole numbers.
    text = re.sub(r"(?m)([✓✗] \w+) +\d+ *$", r"\1", text)
    lines = [re.sub("─+", "─", line).split() for line in text.splitlines()]
    return [line for line in lines if line]


def test_servers_take_the_command_lines_of_the_readme() -> None:
    text = block_after(page("README.md", {}), "in ONNX that somebody else made").text
    lines = [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]
    (_, _, first, *options), (_, _, second, *more) = lines
    assert (first, second) == ("predictor", "aggregator")
    config = predictor.config.from_command_line(options, {})
    assert config.model == Path("svm.onnx")
    ensemble = aggregator.config.from_command_line(more, {})
    assert [each.class_label for each in ensemble.predictors] == [
        "setosa",
        "versicolor",
        "virginica",
    ]
    assert config.listen in [each.address for each in ensemble.predictors]
