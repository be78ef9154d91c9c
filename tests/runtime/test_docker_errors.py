"""What an engine's errors mean, and which version of the API is spoken; without an engine."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import requests
from docker.errors import APIError

from controller.runtime.docker_engine import version_to_speak
from controller.runtime.docker_errors import Meaning, meaning_of, unreachable
from controller.runtime.docker_settings import DockerSettings, Reach


def answer(status: int, text: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("", response, text)


@pytest.mark.parametrize(
    ("status", "text", "meaning"),
    [
        (400, "client version 1.99 is too new. Maximum supported is 1.41", Meaning.OTHER_VERSION),
        (400, "invalid reference format", Meaning.REFUSED),
        (403, "forbidden by the proxy", Meaning.REFUSED),
        (404, "No such container: abc", Meaning.GONE),
        (404, "No such image: x:1", Meaning.NO_IMAGE),
        (404, "network n not found", Meaning.REFUSED),
        (409, 'The container name "/x" is already in use by container "y"', Meaning.TAKEN),
        (409, "removal of container x is already in progress", Meaning.GONE),
        (409, "container is marked for removal and cannot be started", Meaning.GONE),
        (409, "you cannot do this now", Meaning.UNABLE),
        (500, "OCI runtime create failed: runc did not like it", Meaning.REFUSED),
        (500, "driver failed programming external connectivity", Meaning.UNABLE),
        (503, "", Meaning.UNABLE),
    ],
)
def test_an_answer_means_what_its_status_and_words_say(
    status: int, text: str, meaning: Meaning
) -> None:
    assert meaning_of(answer(status, text)) is meaning


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (requests.exceptions.ReadTimeout(), "did not answer within 10 s"),
        (requests.exceptions.ConnectionError(), "no engine answers at unix:///e.sock"),
        (ConnectionRefusedError(), "no engine answers at unix:///e.sock"),
        (answer(500, "no\nspace"), "answered 500: no space"),
        (ValueError("odd"), "cannot be used: odd"),
    ],
)
def test_a_failure_is_a_sentence_that_names_the_engine(error: Exception, said: str) -> None:
    settings = DockerSettings("unix:///e.sock", "image", "me")
    text = str(unreachable(error, settings))
    assert said in text
    assert "unix:///e.sock" in text


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ({"ApiVersion": "1.41", "MinAPIVersion": "1.12"}, "1.41"),
        ({"ApiVersion": "1.52", "MinAPIVersion": "1.44"}, "1.45"),
        ({"ApiVersion": "1.60", "MinAPIVersion": "1.50"}, "1.50"),
        ({"ApiVersion": "1.9"}, "1.24"),
    ],
)
def test_the_newest_version_that_both_know_is_spoken(said: Mapping[str, str], version: str) -> None:
    assert version_to_speak(said) == version


@pytest.mark.parametrize("owner", ["", "a-b", "A", "x" * 33, "a/b"])
def test_an_owner_that_could_be_mistaken_is_refused(owner: str) -> None:
    with pytest.raises(ValueError, match="owner"):
        DockerSettings("unix:///e.sock", "image", owner)


def test_names_need_a_network_that_has_them() -> None:
    with pytest.raises(ValueError, match="docker network create"):
        DockerSettings("unix:///e.sock", "image", "me", reach=Reach.NETWORK)
