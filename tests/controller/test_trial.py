"""Models tried by real predictor processes, which never outlive their trial."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.catalog.trial import Trial, TrialFailed
from controller.predictors import Predictors
from controller.private_folder import PrivateFolder
from tests import artifacts
from tests.controller.catalogs import digest_of
from tests.waiting import eventually
from trillium.errors import ModelRejected
from trillium.model.declared import DeclaredFacts
from trillium.model.description import ModelDescription

SETOSA = DeclaredFacts(class_label="setosa", positive_column=1)


@dataclass(frozen=True, slots=True)
class Watched:
    """A Python that writes down its process id and where its predictor listens."""

    folder: Path
    python: str

    @property
    def children(self) -> dict[int, str]:
        """Address by process id of all that were started."""
        files = (self.folder / "children").iterdir()
        return {int(each.name): each.read_text().strip() for each in files}

    @property
    def alive(self) -> list[int]:
        return [pid for pid in self.children if is_alive(pid)]

    @property
    def overlapped(self) -> bool:
        """Whether one was started while another one ran."""
        return (self.folder / "overlap").exists()


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


SCRIPT = """#!/bin/sh
cd "$(dirname "$0")/children" || exit 1
echo "$4" > $$
env > ../environment
for other in *; do
    if [ "$other" != $$ ] && kill -0 "$other" 2>/dev/null; then touch ../overlap; fi
done
cd "$OLDPWD" || exit 1
exec PYTHON "$@"
"""


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    (tmp_path / "children").mkdir()
    script = tmp_path / "python"
    script.write_text(SCRIPT.replace("PYTHON", f"'{sys.executable}'"))
    script.chmod(0o700)
    return Watched(tmp_path, str(script))


async def described(
    trial: Trial, artifact: bytes, said: DeclaredFacts = SETOSA
) -> ModelDescription:
    return await trial.describe("m", artifact, digest_of(artifact), said)


def expected(artifact: bytes, label: str, **facts: Any) -> ModelDescription:
    return ModelDescription(
        feature_count=4,
        class_label=label,
        name="m",
        digest=digest_of(artifact),
        size_bytes=len(artifact),
        input_dtype="FP32",
        **facts,
    )


async def test_what_a_killed_controller_left_of_a_trial_is_deleted(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(tempfile.mkdtemp(prefix="left-"))  # Paths of sockets are short.
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    left = PrivateFolder(None)
    (left.path / "log").write_text("of a predictor that is gone")
    held = PrivateFolder(None)
    os.close(left._lock)  # As the system does when its holder is killed.
    artifact = artifacts.renamed_opset(13)
    await described(Trial(python=watched.python), artifact)
    assert os.listdir(place) == [held.path.name]
    held.delete()
    os.rmdir(place)


async def test_predictor_says_what_the_model_is_and_is_gone(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    artifact = artifacts.renamed_opset(13)
    assert await described(trial, artifact) == expected(artifact, "setosa")
    artifact = artifacts.with_trillium_metadata(
        artifacts.two_column_tensor(),
        ensemble="iris",
        class_label="virginica",
        class_labels='["setosa", "virginica"]',
        positive_column="1",
        feature_names='["a", "b", "c", "d"]',
    )
    names = ("a", "b", "c", "d")
    labels = ("setosa", "virginica")
    assert await described(trial, artifact, DeclaredFacts()) == expected(
        artifact, "virginica", feature_names=names, ensemble="iris", class_labels=labels
    )
    assert (len(watched.children), watched.alive) == (2, [])
    for address in watched.children.values():
        assert not Path(address.removeprefix("unix:")).parent.exists()


DEFECTIVE = {
    "regression": (artifacts.regressor, "probabilities lie in"),
    "two outputs": (artifacts.two_probability_outputs, "could all be the probabilities"),
    "NaN": (artifacts.nan_output, "is NaN or infinite"),
    "truncated": (artifacts.truncated, "cannot open it"),
    "external data": (artifacts.external_data, "another file"),
}


async def test_what_a_predictor_refuses_is_refused_in_its_words(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    tries = [described(trial, build()) for build, _ in DEFECTIVE.values()]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    for (name, (_, words)), outcome in zip(DEFECTIVE.items(), outcomes, strict=True):
        assert isinstance(outcome, ModelRejected), name
        assert words in str(outcome), name
    assert watched.alive == []


async def test_options_that_were_said_are_tried(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    with pytest.raises(ModelRejected, match="which class it recognizes is not declared"):
        await described(trial, artifacts.renamed_opset(13), DeclaredFacts(positive_column=1))
    said = DeclaredFacts(class_label="setosa", positive_column=1, output_name="calibrated")
    artifact = artifacts.two_probability_outputs()
    assert await described(trial, artifact, said) == expected(artifact, "setosa")


async def test_class_whose_name_may_mark_the_rest_is_not_registered(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    with pytest.raises(ModelRejected, match="do not show which column is the class '0'"):
        await described(trial, artifacts.opset9_svm_zipmap(), DeclaredFacts(class_label="0"))
    said = DeclaredFacts(class_label="0", positive_column=1)
    artifact = artifacts.opset9_svm_zipmap()
    assert await described(trial, artifact, said) == expected(artifact, "0")


async def test_nothing_of_our_environment_reaches_it_but_where_python_is(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRILLIUM_PREDICTOR_MODEL", "nowhere.onnx")
    monkeypatch.setenv("TRILLIUM_CONTROLLER_STORE", "mongodb://me:secret@db")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    trial = Trial(python=watched.python)
    artifact = artifacts.renamed_opset(13)
    assert await described(trial, artifact) == expected(artifact, "setosa")
    environment = (watched.folder / "environment").read_text()
    assert "PATH=" in environment
    assert "secret" not in environment
    assert "TRILLIUM" not in environment


async def test_a_small_model_that_takes_much_memory_is_refused(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    artifact = artifacts.bomb(3 * 2**30)
    assert len(artifact) < 2000
    with pytest.raises(ModelRejected):
        await described(trial, artifact)
    assert watched.alive == []
    # The same graph is taken if it takes little.
    assert (await described(trial, artifacts.bomb(2**20))).class_label == "setosa"


async def test_its_memory_time_and_files_are_bounded(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    task = asyncio.create_task(described(trial, artifacts.slow(60_000)))
    await until_loading(watched)
    (pid,) = watched.alive
    for limit in (
        resource.RLIMIT_DATA,
        resource.RLIMIT_CPU,
        resource.RLIMIT_FSIZE,
        resource.RLIMIT_NOFILE,
    ):
        soft, hard = resource.prlimit(pid, limit)
        assert 0 < soft == hard < 2**33
    assert resource.prlimit(pid, resource.RLIMIT_CORE) == (0, 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_ends_the_predictor(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    task = asyncio.create_task(described(trial, artifacts.slow(60_000)))
    await until_loading(watched)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert watched.alive == []


async def test_model_that_ends_its_predictor_is_refused(watched: Watched) -> None:
    trial = Trial(python=watched.python)
    task = asyncio.create_task(described(trial, artifacts.slow(60_000)))
    await until_loading(watched)
    os.kill(watched.alive[0], 9)
    with pytest.raises(ModelRejected, match="a predictor that tried it was ended by SIGKILL"):
        await task
    assert watched.alive == []


async def test_model_that_takes_too_long_is_refused(watched: Watched) -> None:
    trial = Trial(python=watched.python, load_s=0.2)
    with pytest.raises(ModelRejected, match=r"had not loaded it after 0\.2 s"):
        await described(trial, artifacts.slow(60_000))
    assert watched.alive == []


@pytest.mark.parametrize(("at_once", "count"), [(1, 2), (3, 3)])
async def test_no_more_than_allowed_are_tried_at_once(
    watched: Watched, at_once: int, count: int
) -> None:
    trial = Trial(python=watched.python, at_once=at_once)
    await asyncio.gather(*(described(trial, artifacts.renamed_opset(13)) for _ in range(count)))
    assert len(watched.children) == count
    assert watched.overlapped == (at_once > 1)


async def test_predictor_that_cannot_be_had_says_nothing_of_the_model(
    tmp_path: Path,
) -> None:
    with pytest.raises(TrialFailed, match="no predictor can be started"):
        await described(Trial(python=str(tmp_path / "nothing")), b"artifact")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho out of order >&2\nexit 3\n")
    broken.chmod(0o700)
    with pytest.raises(TrialFailed, match="ended with exit status 3: out of order"):
        await described(Trial(python=str(broken)), b"artifact")
    mute = tmp_path / "mute"
    mute.write_text("#!/bin/sh\nexec sleep 60\n")
    mute.chmod(0o700)
    with pytest.raises(TrialFailed, match=r"did not answer within 0\.2 s"):
        await described(Trial(python=str(mute), start_s=0.2), b"artifact")


def is_there(address: str) -> bool:
    return address != "" and Path(address.removeprefix("unix:")).exists()


async def until_loading(watched: Watched) -> None:
    """Wait until the one predictor is at its model."""
    predictors = Predictors()

    async def is_loading() -> bool:
        addresses = [each for each in watched.children.values() if is_there(each)]
        seen = await predictors.look(addresses[0]) if addresses else None
        return seen is not None and seen.busy

    await eventually(is_loading)
    await predictors.close()
