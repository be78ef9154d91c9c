"""Deployments in the store's words and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from controller.deployments.bodies import event_body, event_of, from_body, to_body
from controller.deployments.document import Deployment, Event, Instance, InstancePhase, Spec, Target
from controller.store.codec import check_body
from controller.store.port import Kind
from controller.store.sqlite import SqliteStore

MOMENTS = st.integers(0, 10**12).map(
    lambda milliseconds: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
)
NUMBERS = st.integers(0, 2**53)
TEXTS = st.text(max_size=20)

SPECS = st.builds(
    Spec,
    model=TEXTS,
    version=NUMBERS,
    digest=TEXTS,
    class_label=TEXTS,
    ensemble=TEXTS,
    class_position=NUMBERS,
    replicas=NUMBERS,
    cpus=st.none() | st.floats(0.1, 64),
    memory_bytes=st.none() | NUMBERS,
    target=st.sampled_from(Target),
    generation=NUMBERS,
)
SLOTS = st.builds(
    Instance,
    phase=st.sampled_from(InstancePhase),
    since=st.none() | MOMENTS,
    attempt=NUMBERS,
    container_id=TEXTS,
    address=TEXTS,
    digest=TEXTS,
    incoming=TEXTS,
    refused=TEXTS,
    failures=NUMBERS,
    generation=NUMBERS,
    retry_time=st.none() | MOMENTS,
    reason=TEXTS,
    log_tail=TEXTS,
)
EVENTS = st.builds(
    Event,
    number=NUMBERS,
    time=MOMENTS,
    cause=TEXTS,
    instance=st.none() | NUMBERS,
    before=TEXTS,
    after=TEXTS,
    attempt=NUMBERS,
)
DEPLOYMENTS = st.builds(
    Deployment,
    id=st.just("a1"),
    spec=SPECS,
    instances=st.lists(SLOTS, max_size=3).map(tuple),
    created=st.none() | MOMENTS,
    updated=st.none() | MOMENTS,
    run=TEXTS,
    requests=st.lists(TEXTS, max_size=3).map(tuple),
    event_count=NUMBERS,
    unannounced=st.lists(EVENTS, max_size=2).map(tuple),
)


@given(DEPLOYMENTS)
def test_a_deployment_comes_back_as_it_was(deployment: Deployment) -> None:
    stored = check_body(to_body(deployment), Kind.DEPLOYMENT).body
    assert from_body("a1", stored) == deployment
    assert stored["state"] == deployment.state.value
    assert stored["model"] == deployment.spec.model


@given(EVENTS)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    assert event_of(check_body(event_body(event)).body) == event


@given(DEPLOYMENTS)
def test_what_a_later_version_adds_is_left_out(deployment: Deployment) -> None:
    body: dict[str, Any] = dict(to_body(deployment))
    body["spec"] = {**body["spec"], "colour": "red"}
    body["slots"] = [{**instance, "mood": 1} for instance in body["slots"]]
    body["unannounced"] = [{**event, "weight": 2.5} for event in body["unannounced"]]
    assert from_body("a1", {**body, "motto": ""}) == deployment


def test_what_an_earlier_version_lacks_gets_its_default() -> None:
    spec = {"model": "m", "version": 1, "digest": "d", "class_label": "c", "target": "LOADED"}
    body = {"spec": spec, "slots": [{"phase": "idle"}], "created": None, "updated": None}
    deployment = from_body("a1", body)
    assert deployment.spec == Spec("m", 1, "d", "c", target=Target.LOADED)
    assert deployment.instances == (Instance(InstancePhase.IDLE),)
    assert (deployment.run, deployment.requests, deployment.event_count) == ("", (), 0)


async def test_a_real_store_gives_back_what_it_was_given(tmp_path: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
    instance = Instance(
        InstancePhase.BACKOFF, now, 3, "id", "unix:/x", "d", "", "", 2, 4, now, "why", "log", 9
    )
    event = Event(5, now, "its container ended", 0, "serving", "backoff", 3)
    spec = Spec("m", 2, "d", "c", "e", 1, 2, 0.5, 2**30, Target.LOADED, 4)
    deployment = Deployment("a1", spec, (instance, Instance()), now, now, "r1", ("q",), 5, (event,))
    store = SqliteStore(tmp_path / "store.db")
    await store.open()
    try:
        await store.create(Kind.DEPLOYMENT, "a1", to_body(deployment))
        record = await store.get(Kind.DEPLOYMENT, "a1")
    finally:
        await store.close()
    assert record is not None
    assert from_body("a1", record.body) == deployment
