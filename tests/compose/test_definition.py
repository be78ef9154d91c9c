"""What compose.yaml says, as Compose understands it. Needs no image."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.compose.system import ONE_SHOT, ROOT, SERVICES, command_of_compose

pytestmark = pytest.mark.engine


@cache
def definition() -> dict[str, Any]:
    """compose.yaml with nothing but the defaults."""
    return configured()


def configured(*files: str) -> dict[str, Any]:
    """What `docker compose config` makes of the files; it must have no complaints."""
    done = subprocess.run(
        [*command_of_compose(), *files, "config", "--format", "json"],
        cwd=ROOT,
        env={},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_it_has_these_services() -> None:
    assert sorted(definition()["services"]) == sorted(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_contained_and_limited(service: str) -> None:
    facts = definition()["services"][service]
    assert facts["read_only"] is True
    assert facts["cap_drop"] == ["ALL"]
    assert facts["security_opt"] == ["no-new-privileges:true"]
    assert facts["restart"] == ("no" if service in ONE_SHOT else "unless-stopped")
    assert facts["cpus"] > 0
    assert int(facts["mem_limit"]) == int(facts["memswap_limit"]) > 0
    assert facts["pids_limit"] > 0
    assert set(facts["logging"]["options"]) == {"max-size", "max-file"}
    assert not {"privileged", "cap_add", "devices", "pid"} & set(facts)
    assert facts.get("network_mode", "none") == "none"


def test_only_the_doors_are_published_and_only_on_the_loopback_interface() -> None:
    services = definition()["services"]
    ports = {
        name: [(each["host_ip"], each["published"], each["target"]) for each in facts["ports"]]
        for name, facts in services.items()
        if "ports" in facts
    }
    assert ports == {
        "aggregator": [("127.0.0.1", "50051", 50051)],
        "controller": [("127.0.0.1", "50052", 50052)],
        "gateway": [("127.0.0.1", "9000", 9000)],
    }


def test_the_engines_socket_reaches_the_controller_only() -> None:
    mounts = {
        name: [(each["type"], each["source"]) for each in facts["volumes"]]
        for name, facts in definition()["services"].items()
        if "volumes" in facts
    }
    assert mounts == {
        "aggregator": [("volume", "credentials")],
        "controller": [("bind", "/var/run/docker.sock"), ("volume", "credentials")],
        "credentials": [("volume", "credentials")],
        "mongo": [("volume", "state")],
    }


def test_predictors_and_the_database_reach_nothing_outside() -> None:
    facts = definition()
    assert {name for name, each in facts["networks"].items() if each.get("internal")} == {
        "predictors",
        "state",
    }
    outside = {name for name, each in facts["services"].items() if "doors" in networks(each)}
    assert outside == {"aggregator", "controller", "gateway"}
    users = {name for name, each in facts["services"].items() if "state" in networks(each)}
    assert users == {"controller", "mongo"}


def networks(service: Mapping[str, Any]) -> list[str]:
    return list(service.get("networks", ()))


def test_the_database_is_the_official_image_and_a_replica_set_of_one() -> None:
    mongo = definition()["services"]["mongo"]
    assert re.fullmatch(r"mongo:\d+\.\d+", mongo["image"])
    assert mongo["command"][:3] == ["mongod", "--replSet", "rs0"]
    assert mongo["healthcheck"]["test"][:2] == ["CMD", "mongosh"]
    check = mongo["healthcheck"]["test"][-1]
    assert 'rs.initiate({_id: "rs0", members: [{_id: 0, host: "mongo:27017"}]})' in check
    assert mongo["user"] == "999:999"


def test_services_wait_for_what_they_need() -> None:
    services = definition()["services"]
    waits = {
        (name, other): how["condition"]
        for name, facts in services.items()
        for other, how in facts.get("depends_on", {}).items()
    }
    assert waits == {
        ("aggregator", "controller"): "service_started",
        ("aggregator", "credentials"): "service_completed_successfully",
        ("aggregator", "predictor-setosa"): "service_healthy",
        ("aggregator", "predictor-versicolor"): "service_healthy",
        ("aggregator", "predictor-virginica"): "service_healthy",
        ("controller", "credentials"): "service_completed_successfully",
        ("controller", "mongo"): "service_healthy",
        ("gateway", "aggregator"): "service_started",
        ("gateway", "controller"): "service_started",
    }


def test_every_setting_of_env_is_used_and_every_one_used_is_there() -> None:
    given = set(re.findall(r"(?m)^([A-Z_]+)=", (ROOT / ".env").read_text()))
    used = set(re.findall(r"\$\{([A-Z_]+)", (ROOT / "compose.yaml").read_text()))
    assert given == used


def test_what_the_documents_put_in_the_sockets_place_can_be_put_there(tmp_path: Path) -> None:
    examples = re.findall(r"(?s)```yaml\n(.*?)```", (ROOT / "docs/operations.md").read_text())
    assert len(examples) == 3
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.yaml"
        file.write_text(example)
        facts = configured("--file", "compose.yaml", "--file", str(file))["services"]
        settings = facts["controller"]["environment"]
        sources = {each["source"] for each in facts["controller"].get("volumes", ())}
        is_replaced = "TRILLIUM_CONTROLLER_DOCKER_URL" in settings
        assert is_replaced is ("/var/run/docker.sock" not in sources)
