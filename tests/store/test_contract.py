"""Runs the contract of the port against every store."""

from __future__ import annotations

from tests.store.contract import Expiring, Listing, Racing, Records
from tests.store.contract_logs import Blobs, Logs
from tests.store.contract_watch import Ending, Watching


class TestRecords(Records):
    pass


class TestListing(Listing):
    pass


class TestRacing(Racing):
    pass


class TestExpiring(Expiring):
    pass


class TestLogs(Logs):
    pass


class TestBlobs(Blobs):
    pass


class TestWatching(Watching):
    pass


class TestEnding(Ending):
    pass
