"""What every store does with records. Run by test_contract.py against each of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.store.port import MAX_BODY_BYTES, AlreadyThere, Body, Kind, Record, Store, TooLarge
from tests.store.conftest import MakeStore
from tests.waiting import eventually

RUN, LEASE = Kind.RUN, Kind.LEASE

AWKWARD: Body = {
    "": "empty key",
    "a.b": {"$set": 1, "$ref": 2, "$id": 3, "~$x": 4, "~": 5},
    "$where": [{"$time": "no time"}, {"$bytes": "none"}, []],
    "none": None,
    "ints": [0, -1, 2**31, 2**63 - 1, -(2**63)],
    "floats": [0.0, 1.0, -1.5e300, 5e-324],
    "bytes": b"\x00\xff",
    "text": "\x00 \u2603 \U0001f40d",
    "when": datetime(2026, 1, 31, 23, 59, 59, 999000, tzinfo=UTC),
    "long ago": datetime(1, 1, 1, tzinfo=UTC),
    "late": datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC),
    "flags": [True, False],
}

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_KEYS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _TEXT
    | st.binary(max_size=8)
    | st.datetimes(timezones=st.just(UTC)).map(
        lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    )
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=12,
)
BODIES = st.dictionaries(_KEYS | st.sampled_from(["$a", "~a", "a.b", "$time"]), _VALUES, max_size=4)


def typed(value: Any) -> Any:
    """A value that is equal to another's only if all types in it are equal, too."""
    if isinstance(value, dict):
        return {key: typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value).__name__, value


class Records:
    """create, get, list, compare_and_set, delete."""

    async def test_created_record_has_revision_1_and_is_read_back(self, store: Store) -> None:
        made = await store.create(RUN, "r1", {"state": "QUEUED"})
        assert made == Record("r1", 1, {"state": "QUEUED"})
        assert await store.get(RUN, "r1") == made

    async def test_missing_record_is_none(self, store: Store) -> None:
        assert await store.get(RUN, "r1") is None

    async def test_kinds_do_not_share_ids(self, store: Store) -> None:
        await store.create(RUN, "x", {"n": 1})
        await store.create(LEASE, "x", {"n": 2})
        assert [(await store.list(kind))[0].body for kind in (RUN, LEASE)] == [{"n": 1}, {"n": 2}]

    async def test_second_create_is_refused_and_changes_nothing(self, store: Store) -> None:
        await store.create(RUN, "r1", {"n": 1})
        with pytest.raises(AlreadyThere, match="runs/r1"):
            await store.create(RUN, "r1", {"n": 1})
        assert await store.get(RUN, "r1") == Record("r1", 1, {"n": 1})

    async def test_compare_and_set_replaces_the_body_and_counts(self, store: Store) -> None:
        await store.create(RUN, "r1", {"n": 1, "old": True})
        assert await store.compare_and_set(RUN, "r1", 1, {"n": 2}) == Record("r1", 2, {"n": 2})
        assert await store.compare_and_set(RUN, "r1", 2, {"n": 2}) == Record("r1", 3, {"n": 2})
        assert await store.get(RUN, "r1") == Record("r1", 3, {"n": 2})

    @pytest.mark.parametrize("rev", [1, 3])
    async def test_other_revision_is_left_alone(self, store: Store, rev: int) -> None:
        await store.create(RUN, "r1", {"n": 1})
        now = await store.compare_and_set(RUN, "r1", 1, {"n": 2})
        assert await store.compare_and_set(RUN, "r1", rev, {"n": 3}) is None
        assert await store.delete(RUN, "r1", rev) is False
        assert await store.get(RUN, "r1") == now

    async def test_what_is_gone_is_not_changed(self, store: Store) -> None:
        assert await store.compare_and_set(RUN, "r1", 1, {}) is None
        assert await store.delete(RUN, "r1", 1) is False
        assert await store.get(RUN, "r1") is None

    async def test_deleted_id_can_be_created_anew(self, store: Store) -> None:
        await store.create(RUN, "r1", {"n": 1})
        assert await store.delete(RUN, "r1", 1) is True
        assert await store.get(RUN, "r1") is None
        assert (await store.create(RUN, "r1", {"n": 2})).rev == 1

    async def test_body_is_a_copy(self, store: Store) -> None:
        mine: dict[str, Any] = {"list": [1]}
        made = await store.create(RUN, "r1", mine)
        mine["list"].append(2)
        assert made.body == {"list": [1]}

    async def test_awkward_body_comes_back_as_it_was(self, store: Store) -> None:
        made = await store.create(RUN, "r1", AWKWARD)
        found = await store.get(RUN, "r1")
        assert found == made
        assert typed(found.body) == typed(AWKWARD)
        plain = await store.compare_and_set(RUN, "r1", 1, {"~a": 1, "a": "~"})
        assert await store.get(RUN, "r1") == plain

    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(body=BODIES)
    async def test_any_body_comes_back_as_it_was(self, store: Store, body: Body) -> None:
        found = await store.get(LEASE, "l1")
        if found is None:
            await store.create(LEASE, "l1", body)
        else:
            await store.compare_and_set(LEASE, "l1", found.rev, body)
        found = await store.get(LEASE, "l1")
        assert found is not None
        assert typed(found.body) == typed(body)

    @pytest.mark.parametrize(
        ("body", "error", "said"),
        [
            ({"a": [float("nan")]}, ValueError, "a.0: nan is not finite"),
            ({"a": float("-inf")}, ValueError, "not finite"),
            ({"a": 2**63}, ValueError, "64 bits"),
            ({"a": datetime(2026, 1, 1)}, ValueError, "UTC"),  # noqa: DTZ001
            ({"a": datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC)}, ValueError, "millisecond"),
            ({"a": "\ud800"}, ValueError, "surrogate"),
            ({"a\0": 1}, ValueError, "NUL"),
            ({1: 1}, TypeError, "key 1 is not text"),
            ({"a": {"b": {1, 2}}}, TypeError, "a.b: a set cannot be stored"),
            ({"a": (1,)}, TypeError, "tuple"),
            ({"state": ["QUEUED"]}, TypeError, "state"),
            ([], TypeError, "mapping"),
        ],
    )
    async def test_body_that_would_not_come_back_is_refused(
        self, store: Store, body: Any, error: type[Exception], said: str
    ) -> None:
        await store.create(RUN, "r0", {})
        with pytest.raises(error, match=said):
            await store.create(RUN, "r1", body)
        with pytest.raises(error, match=said):
            await store.compare_and_set(RUN, "r0", 1, body)
        assert await store.list(RUN) == [Record("r0", 1, {})]

    @pytest.mark.parametrize("id", ["", "a\0", "\udc00", "x" * 513])
    async def test_bad_id_is_refused(self, store: Store, id: str) -> None:
        with pytest.raises(ValueError, match=r"id|surrogate"):
            await store.create(RUN, id, {})

    async def test_nesting_up_to_64_levels(self, store: Store) -> None:
        body: dict[str, Any] = {}
        for _ in range(63):
            body = {"a": body}
        await store.create(RUN, "r1", body)
        assert (await store.list(RUN))[0].body == body
        with pytest.raises(ValueError, match="64"):
            await store.create(RUN, "r2", {"a": body})

    async def test_sizes_up_to_the_limit(self, store: Store) -> None:
        largest = {"a": "x" * (MAX_BODY_BYTES - 100)}
        await store.create(RUN, "r1", largest)
        found = await store.get(RUN, "r1")
        assert found is not None
        assert found.body == largest
        with pytest.raises(TooLarge, match=str(MAX_BODY_BYTES)):
            await store.create(RUN, "r2", {"a": b"x" * MAX_BODY_BYTES})
        with pytest.raises(TooLarge):
            await store.compare_and_set(RUN, "r1", 1, {"a": "x" * MAX_BODY_BYTES})

    async def test_body_of_short_keys_fits_where_its_size_says_so(self, store: Store) -> None:
        body = {f"${number}": None for number in range(300_000)}  # Escaping makes it longer.
        await store.create(RUN, "r1", body)
        assert (await store.list(RUN))[0].body == body


class Listing:
    """list, with its filters and pages."""

    async def test_order_is_that_of_utf8_bytes(self, store: Store) -> None:
        ids = ["a", "a.b", "B", "\u00e9", "\uffee", "\U0001f40d", "~", "10", "9", "a\x01"]
        for id in ids:
            await store.create(RUN, id, {})
        expected = sorted(ids, key=str.encode)
        assert [record.id for record in await store.list(RUN)] == expected
        for number, id in enumerate(expected):
            rest = await store.list(RUN, after=id)
            assert [record.id for record in rest] == expected[number + 1 :]

    async def test_pages_do_not_overlap_and_leave_nothing_out(self, store: Store) -> None:
        for number in range(25):
            await store.create(RUN, f"r{number:02}", {"state": "A" if number % 2 else "B"})
        for where in (None, {"state": ["A", "B"]}):
            seen: list[str] = []
            while page := await store.list(RUN, where=where, after=max(seen, default=""), limit=7):
                assert len(page) <= 7
                seen += [record.id for record in page]
            assert seen == [f"r{number:02}" for number in range(25)]
            found: dict[str, int] = {}
            while some := await store.revisions(
                RUN, where=where, after=max(found, default=""), limit=7
            ):
                assert len(some) <= 7
                found |= some
            assert list(found) == seen

    async def test_revisions_are_those_of_what_a_list_has(self, store: Store) -> None:
        for id, state in (("r2", "A"), ("r1", "A"), ("r3", "B")):
            await store.create(RUN, id, {"state": state})
        await store.compare_and_set(RUN, "r1", 1, {"state": "A", "more": True})
        assert await store.revisions(RUN) == {"r1": 2, "r2": 1, "r3": 1}
        assert await store.revisions(RUN, where={"state": ["A"]}) == {"r1": 2, "r2": 1}
        assert list(await store.revisions(RUN)) == ["r1", "r2", "r3"]
        assert await store.revisions(RUN, where={"state": ["C"]}) == {}
        await store.delete(RUN, "r2", 1)
        assert await store.revisions(RUN, after="r1") == {"r3": 1}

    async def test_filters(self, store: Store) -> None:
        bodies: dict[str, Body] = {
            "r1": {"state": "A", "model": "m"},
            "r2": {"state": "B", "model": "m"},
            "r3": {"state": "A", "model": "n"},
            "r4": {"state": 1},
            "r5": {"state": True},
            "r6": {"state": None},
            "r7": {},
        }
        for id, body in bodies.items():
            await store.create(RUN, id, body)

        async def found(**where: list[str | int | bool]) -> list[str]:
            return [record.id for record in await store.list(RUN, where=where)]

        assert await found(state=["A"]) == ["r1", "r3"]
        assert await found(state=["A", "B"], model=["m"]) == ["r1", "r2"]
        assert await found(state=["A"], model=["none"]) == []
        assert await found(state=[1]) == ["r4"]
        assert await found(state=[True]) == ["r5"]
        assert await found(state=[]) == []
        assert len(await found()) == 7
        assert [each.id for each in await store.list(RUN, where={"state": ["A"]}, after="r1")] == [
            "r3"
        ]

    async def test_filter_follows_the_body(self, store: Store) -> None:
        await store.create(RUN, "r1", {"state": "A"})
        await store.compare_and_set(RUN, "r1", 1, {"state": "B"})
        assert await store.list(RUN, where={"state": ["A"]}) == []
        assert len(await store.list(RUN, where={"state": ["B"]})) == 1

    @pytest.mark.parametrize("limit", [0, 1001])
    async def test_bad_limit_is_refused(self, store: Store, limit: int) -> None:
        with pytest.raises(ValueError, match="limit"):
            await store.list(RUN, limit=limit)
        with pytest.raises(ValueError, match="limit"):
            await store.revisions(RUN, limit=10 * limit)

    async def test_unknown_filter_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="owner"):
            await store.list(RUN, where={"owner": ["x"]})
        with pytest.raises(ValueError, match="state"):
            await store.list(LEASE, where={"state": ["x"]})
        with pytest.raises(TypeError, match="state"):
            await store.list(RUN, where={"state": "A"})


class Racing:
    """Several tasks, and several stores, at once."""

    async def test_one_of_many_creates_wins(self, make_store: MakeStore) -> None:
        stores = [make_store() for _ in range(2)]
        await asyncio.gather(*(store.open() for store in stores))

        async def create(number: int) -> int:
            try:
                await stores[number % 2].create(RUN, "r1", {"by": number})
            except AlreadyThere:
                return -1
            return number

        (winner,) = {await each for each in asyncio.as_completed(map(create, range(16)))} - {-1}
        assert await stores[0].get(RUN, "r1") == Record("r1", 1, {"by": winner})

    async def test_no_increment_is_lost(self, make_store: MakeStore) -> None:
        stores = [make_store() for _ in range(2)]
        await asyncio.gather(*(store.open() for store in stores))
        await stores[0].create(RUN, "r1", {"n": 0})

        async def increment(store: Store, times: int) -> None:
            while times:
                found = await store.get(RUN, "r1")
                assert found is not None
                body = {"n": found.body["n"] + 1}
                if await store.compare_and_set(RUN, "r1", found.rev, body):
                    times -= 1

        await asyncio.gather(*(increment(stores[task % 2], 10) for task in range(8)))
        assert await stores[0].get(RUN, "r1") == Record("r1", 81, {"n": 80})

    async def test_one_of_many_deletes_wins(self, store: Store) -> None:
        await store.create(RUN, "r1", {})
        assert sorted(await asyncio.gather(*(store.delete(RUN, "r1", 1) for _ in range(8)))) == (
            [False] * 7 + [True]
        )

    async def test_stores_open_at_once_on_nothing(self, make_store: MakeStore) -> None:
        stores = [make_store() for _ in range(4)]
        await asyncio.gather(*(store.open() for store in stores))
        await stores[0].open()
        await stores[0].create(RUN, "r1", {})
        for store in stores:
            assert [record.id for record in await store.list(RUN)] == ["r1"]


class Expiring:
    """`expires`."""

    async def test_expired_record_goes_and_others_stay(self, store: Store) -> None:
        now = datetime.now(UTC)
        await store.create(RUN, "gone", {}, expires=now - timedelta(seconds=1))
        await store.create(RUN, "later", {}, expires=now + timedelta(hours=1))
        await store.create(RUN, "never", {})
        await store.create(RUN, "saved", {}, expires=now + timedelta(hours=1))
        await store.compare_and_set(RUN, "saved", 1, {})
        await store.create(RUN, "doomed", {})
        await store.compare_and_set(RUN, "doomed", 1, {}, expires=now)

        async def ids() -> list[str]:
            return [record.id for record in await store.list(RUN)]

        async def dropped() -> bool:
            return await ids() == ["later", "never", "saved"]

        await eventually(dropped)
        assert (await store.create(RUN, "gone", {"n": 2})).rev == 1

    async def test_time_without_zone_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="time zone"):
            await store.create(RUN, "r1", {}, expires=datetime(2026, 1, 1))  # noqa: DTZ001
