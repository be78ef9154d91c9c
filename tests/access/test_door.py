"""Every RPC has a role, and no caller gets past it: by the table, and on real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from aggregator.app import running_aggregator
from aggregator.config import AggregatorConfig
from aggregator.plans.roster import Endpoint
from controller.app import running_controller
from controller.config import ControllerConfig
from gateway.app import running_gateway
from gateway.config import GatewayConfig
from predictor.app import running_predictor
from predictor.config import PredictorConfig
from tests.access.other_user import as_root, said_by
from tests.trained import trained
from tests.waiting import eventually
from trillium import Client
from trillium.access.door import Credentials, Door
from trillium.access.roles import CHANGES, RULES, Role
from trillium.access.tokens import TokenFile
from trillium.aggregator.v1 import aggregator_service_pb2
from trillium.client.aio import AsyncClient
from trillium.client.controller import AsyncControllerClient, ControllerClient
from trillium.controller.v1 import (
    catalog_service_pb2,
    controller_service_pb2,
    discovery_service_pb2,
    ensemble_service_pb2,
    run_service_pb2,
)
from trillium.errors import PermissionDenied, Unauthenticated
from trillium.oip import open_inference_pb2
from trillium.predictor.v1 import model_service_pb2, predictor_service_pb2

NOW = datetime.now(UTC)
FILES = (
    aggregator_service_pb2,
    catalog_service_pb2,
    controller_service_pb2,
    discovery_service_pb2,
    ensemble_service_pb2,
    run_service_pb2,
    model_service_pb2,
    predictor_service_pb2,
    open_inference_pb2,
    health_pb2,
    reflection_pb2,
)
ROW = [5.1, 3.5, 1.4, 0.2]
ELSEWHERE = "ipv4:192.0.2.7:40000"
ANONYMOUSLY = (("x-trillium-anonymous", "1"),)


def services() -> Iterator[ServiceDescriptor]:
    for file in FILES:
        yield from file.DESCRIPTOR.services_by_name.values()


def test_every_rpc_has_a_role_and_every_rule_is_of_an_rpc() -> None:
    paths = {f"/{each.full_name}/{method.name}" for each in services() for method in each.methods}
    paths.discard("/grpc.health.v1.Health/List")  # A later version of its package describes it.
    assert paths == set(RULES)


def test_what_changes_something_needs_more_than_to_view() -> None:
    reading = ("Get", "List", "Watch", "Stream", "Plan", "Check", "Predict", "Classify", "Model")
    names = {path.rpartition("/")[2] for path in RULES if path not in CHANGES}
    others = {"ServerReflectionInfo", "ServerLive", "ServerReady", "ServerMetadata"}
    assert {each for each in names if not each.startswith(reading)} <= others | {"RepositoryIndex"}
    for path in CHANGES:
        for role in (Role.NONE, Role.INFER, Role.VIEW):
            assert not role.includes(RULES[path]), path


def test_roles_include_what_the_documentation_says() -> None:
    rank = [Role.NONE, Role.INFER, Role.VIEW, Role.OPERATE, Role.ADMIN]
    for role in rank:
        assert [each for each in rank if role.includes(each)] == rank[: rank.index(role) + 1]
    included = {each for each in Role if Role.SERVICE.includes(each)}
    assert included == {Role.NONE, Role.INFER, Role.SERVICE}


def test_an_rpc_that_the_table_lacks_is_denied_to_everybody() -> None:
    door = Door(anonymous=Role.ADMIN)
    with pytest.raises(PermissionDenied, match="is open to nobody"):
        door.admit("/trillium.aggregator.v1.AggregatorService/New", Credentials("unix:"))


@pytest.mark.parametrize(
    "authorization",
    ["x", "Bearer", "Bearer ", "Basic dXNlcjpwYXNz", "Token {token}", "{token}", "Bearer {token}x"],
)
def test_what_is_no_token_is_refused_even_from_the_servers_own_user(
    tmp_path: Path, authorization: str
) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    token = file.create("laptop", Role.ADMIN, now=NOW)
    given = authorization.replace("{token}", token)
    with pytest.raises(Unauthenticated) as caught:
        Door(tokens=file).admit(next(iter(CHANGES)), Credentials("unix:", given))
    assert token not in str(caught.value)


def test_a_credential_does_not_appear_in_a_representation() -> None:
    assert "secret" not in repr(Credentials("unix:", "Bearer secret"))


def test_a_token_is_not_lifted_by_where_it_comes_from(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.json")
    token = file.create("laptop", Role.INFER, now=NOW)
    with pytest.raises(PermissionDenied, match="needs the role operate, and token:laptop has inf"):
        Door(tokens=file).admit(
            "/trillium.controller.v1.ControllerService/TerminateDeployment",
            Credentials("unix:", f"bearer {token}"),
        )


@pytest.mark.parametrize(
    "peer", [ELSEWHERE, "ipv4:127.0.0.1:1", "ipv6:%5B::1%5D:1", "", "ipv4:x", "ip:a:b", "unixx"]
)
def test_a_peer_that_the_kernel_does_not_know_is_anonymous(peer: str) -> None:
    door = Door()
    door.opened(("127.0.0.1:2", "[::1]:2", "unix:/path", "0.0.0.0:3"))
    assert door.principal(Credentials(peer)).name == "anonymous"


@dataclass(frozen=True, slots=True)
class Up:
    """The four servers with a file of tokens, and a token of each role."""

    aggregator: str
    controller: str
    predictor: str
    gateway: str
    tokens: Mapping[Role | str, str]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def up(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Up]:
    folder = tmp_path_factory.mktemp("access")
    models = trained(tmp_path_factory, "iris")
    file = TokenFile(folder / "tokens.json")
    tokens: dict[Role | str, str] = {role: file.create(role, role, now=NOW) for role in Role}
    tokens["expired"] = file.create("old", Role.ADMIN, now=NOW, lives=timedelta(microseconds=1))
    tokens["unknown"] = "trillium_unknown"
    shared: dict[str, Any] = {"listen": "127.0.0.1:0", "tokens": file.path}
    async with AsyncExitStack() as stack:
        setosa = await stack.enter_async_context(
            running_predictor(PredictorConfig(model=models / "iris-setosa.onnx", **shared))
        )
        predictor = await stack.enter_async_context(running_predictor(PredictorConfig(**shared)))
        aggregator = await stack.enter_async_context(
            running_aggregator(AggregatorConfig((Endpoint("setosa", setosa.address),), **shared))
        )
        await eventually(aggregator.roster.all_ready)
        controller = await stack.enter_async_context(
            running_controller(ControllerConfig(store=f"sqlite:{folder / 'store.db'}", **shared))
        )
        gateway = await stack.enter_async_context(
            running_gateway(
                GatewayConfig(
                    listen="127.0.0.1:0",
                    aggregator=aggregator.address,
                    controller=controller.address,
                )
            )
        )
        yield Up(aggregator.address, controller.address, predictor.address, gateway.address, tokens)


def code_of(channel: Any, path: str, metadata: Any, *, patience_s: float = 20) -> str:
    """The code with which a call with an empty message ends, or OK if it goes on or has not ended
    after `patience_s`: a watch has no end.

    A blocking call, since grpc.aio's may have INTERNAL in place of the status of a server that
    answers before it has received everything.
    """
    call = channel.stream_stream(path)(iter([b""]), timeout=patience_s, metadata=metadata)
    try:
        next(call, None)
    except grpc.RpcError as error:
        code = str(error.code().name)
        return "OK" if code == "DEADLINE_EXCEEDED" else code
    finally:
        call.cancel()
    return "OK"


SERVED = {
    "aggregator": ("AggregatorService", "GRPCInferenceService", "Health", "ServerReflection"),
    "controller": (
        *("ControllerService", "EnsembleService", "RunService", "CatalogService"),
        *("DiscoveryService", "Health", "ServerReflection"),
    ),
    "predictor": (
        *("PredictorService", "ModelService", "GRPCInferenceService"),
        *("Health", "ServerReflection"),
    ),
}
REFUSED = {"UNAUTHENTICATED", "PERMISSION_DENIED"}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("server", SERVED)
async def test_every_rpc_on_a_real_server_is_open_to_its_roles_only(up: Up, server: str) -> None:
    paths = [path for path in RULES if path.split("/")[1].rpartition(".")[2] in SERVED[server]]
    callers: dict[str, tuple[Role, Any, set[str]]] = {
        "nobody": (Role.NONE, ANONYMOUSLY, {"UNAUTHENTICATED"}),
        **{
            name: (
                Role.NONE,
                (("authorization", f"Bearer {up.tokens[name]}"),),
                {"UNAUTHENTICATED"},
            )
            for name in ("expired", "unknown")
        },
        "elsewhere": (Role.NONE, (*ANONYMOUSLY, ("token", up.tokens[Role.ADMIN])), REFUSED),
        **{
            role: (role, (("authorization", f"Bearer {up.tokens[role]}"),), {"PERMISSION_DENIED"})
            for role in Role
        },
        "own user": (Role.ADMIN, (), set()),
    }
    with grpc.insecure_channel(getattr(up, server)) as channel:

        async def check(name: str, path: str) -> None:
            role, metadata, refusal = callers[name]
            may = role.includes(RULES[path])
            code = await asyncio.to_thread(
                code_of, channel, path, metadata, patience_s=0.5 if may else 20
            )
            if may:
                assert code not in REFUSED, (name, path, code)
            else:
                assert code in refusal, (name, path, code)

        for path in paths:
            await asyncio.gather(*(check(name, path) for name in callers))


LINES: tuple[tuple[Role, str, str, Any], ...] = (
    (Role.NONE, "GET", "/health", None),
    (Role.NONE, "GET", "/v2/health/live", None),
    (Role.NONE, "GET", "/openapi.json", None),
    (Role.INFER, "GET", "/health/all", None),
    (Role.INFER, "POST", "/predict", {"data": [ROW]}),
    (Role.INFER, "POST", "/predict/label", {"data": [ROW]}),
    (Role.INFER, "GET", "/metadata", None),
    (Role.VIEW, "GET", "/v1/deployments", None),
    (Role.VIEW, "GET", "/v1/runs", None),
    (Role.VIEW, "GET", "/v1/models", None),
    (Role.OPERATE, "POST", "/v1/deployments", {"deployment_id": "a1", "model": "m"}),
    (Role.OPERATE, "POST", "/v1/deployments/a1:terminate", None),
    (Role.OPERATE, "DELETE", "/v1/ensembles/iris", None),
    (Role.OPERATE, "DELETE", "/v1/runs/r1", None),
    (Role.ADMIN, "DELETE", "/v1/models/iris-setosa", None),
)


@pytest.mark.asyncio(loop_scope="module")
async def test_every_kind_of_http_request_is_open_to_its_roles_only(up: Up) -> None:
    async with aiohttp.ClientSession(f"http://{up.gateway}") as session:
        for needed, method, path, body in LINES:
            for role in Role:
                headers = {"authorization": f"Bearer {up.tokens[role]}"}
                async with session.request(method, path, json=body, headers=headers) as answer:
                    allowed = role.includes(needed)
                    assert (answer.status == 403) is not allowed, (role, path, answer.status)
            async with session.request(method, path, json=body) as answer:
                assert answer.status not in (401, 403), "the gateway's own user"
            if needed is not Role.NONE:
                headers = {"authorization": "Bearer trillium_unknown"}
                async with session.request(method, path, json=body, headers=headers) as answer:
                    assert answer.status == 401
                    assert answer.headers["www-authenticate"] == "Bearer"
                    assert (await answer.json())["reason"] == "UNAUTHENTICATED"


@pytest.mark.asyncio(loop_scope="module")
async def test_two_authorizations_are_none(up: Up) -> None:
    headers = [("authorization", f"Bearer {up.tokens[Role.ADMIN]}")] * 2
    async with (
        aiohttp.ClientSession(f"http://{up.gateway}") as session,
        session.get("/v1/deployments", headers=headers) as answer,
    ):
        assert answer.status == 401


CALLS = """
def rpc(address, path, metadata=()):
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(path)(b"", timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name
    return "OK"

def http(address, line, more=""):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(f"{line} HTTP/1.1\\r\\nhost: {address}\\r\\n{more}connection: close\\r\\n"
                       "content-length: 0\\r\\n\\r\\n".encode())
        return int(caller.makefile().readline().split()[1])

deployments = "/trillium.controller.v1.ControllerService/"
bearer = f"Bearer {argument['token']}"
done({
    "list": rpc(argument["controller"], deployments + "ListDeployments"),
    "terminate": rpc(argument["controller"], deployments + "TerminateDeployment"),
    "unload": rpc(argument["predictor"], "/trillium.predictor.v1.ModelService/UnloadModel"),
    "metadata": rpc(argument["aggregator"],
                    "/trillium.aggregator.v1.AggregatorService/GetMetadata"),
    "health": rpc(argument["aggregator"], "/grpc.health.v1.Health/Check"),
    "with a token": rpc(argument["aggregator"],
                        "/trillium.aggregator.v1.AggregatorService/GetMetadata",
                        (("authorization", bearer),)),
    "http": http(argument["gateway"], "GET /v1/deployments"),
    "http change": http(argument["gateway"], "POST /v1/deployments/a1:terminate"),
    "http metadata": http(argument["gateway"], "GET /metadata"),
    "http with a token": http(argument["gateway"], "GET /metadata",
                              f"authorization: {bearer}\\r\\n"),
    "http health": http(argument["gateway"], "GET /health"),
})
"""


@as_root
@pytest.mark.asyncio(loop_scope="module")
async def test_another_user_of_the_machine_may_do_nothing_without_a_token(up: Up) -> None:
    argument = {
        "aggregator": up.aggregator,
        "controller": up.controller,
        "predictor": up.predictor,
        "gateway": up.gateway,
        "token": up.tokens[Role.INFER],
    }
    assert await said_by(CALLS, argument) == {
        "list": "UNAUTHENTICATED",
        "terminate": "UNAUTHENTICATED",
        "unload": "UNAUTHENTICATED",
        "metadata": "UNAUTHENTICATED",
        "health": "OK",
        "with a token": "OK",
        "http": 401,
        "http change": 401,
        "http metadata": 401,
        "http with a token": 200,
        "http health": 200,
    }


@pytest.mark.asyncio(loop_scope="module")
async def test_clients_bring_the_token_that_they_are_given(
    up: Up, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer, view = up.tokens[Role.INFER], up.tokens[Role.VIEW]

    def blocking() -> None:
        with Client(up.aggregator, token=infer) as client:
            assert client.predict([ROW]).class_labels == ("setosa",)
            assert len(list(client.predict_stream(iter([[ROW], [ROW]])))) == 2
        with (
            Client(up.aggregator, token="trillium_unknown") as client,
            pytest.raises(Unauthenticated, match="the token is not known here"),
        ):
            client.predict([ROW])
        with ControllerClient(up.controller, token=view) as controller:
            assert list(controller.deployments()) == []
        with (
            ControllerClient(up.controller, token=infer) as controller,
            pytest.raises(PermissionDenied, match="needs the role view"),
        ):
            list(controller.deployments())

    await asyncio.to_thread(blocking)
    async with AsyncClient(up.aggregator, token=infer) as client:
        assert (await client.predict([ROW])).class_labels == ("setosa",)
    path = tmp_path / "token"
    path.write_text(infer)
    monkeypatch.setenv("TRILLIUM_TOKEN_FILE", str(path))
    async with AsyncControllerClient(up.controller) as controller:
        with pytest.raises(PermissionDenied, match="token:infer has infer"):
            async for _ in controller.deployments():
                pass
    monkeypatch.setenv("TRILLIUM_TOKEN_FILE", str(tmp_path / "missing"))
    with pytest.raises(ValueError, match="TRILLIUM_TOKEN_FILE: cannot read the token file"):
        Client(up.aggregator)


@pytest.mark.asyncio(loop_scope="module")
async def test_third_party_clients_bring_a_token_by_their_own_means(up: Up) -> None:
    import tritonclient.grpc as triton

    headers = {"authorization": f"Bearer {up.tokens[Role.INFER]}"}

    def ask() -> None:
        client = triton.InferenceServerClient(up.aggregator)
        try:
            assert client.is_server_live()
            name = client.get_server_metadata(headers=headers).name
            assert name == "trillium-aggregator"
            wrong = {"authorization": "Bearer trillium_unknown"}
            with pytest.raises(triton.InferenceServerException, match="not known here"):
                client.get_server_metadata(headers=wrong)
        finally:
            client.close()

    await asyncio.to_thread(ask)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_is_logged_with_the_name_of_whoever_made_it(
    up: Up, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trillium.calls")
    token = up.tokens[Role.OPERATE]
    metadata = (("authorization", f"Bearer {token}"),)
    async with aio.insecure_channel(up.controller) as channel:
        call: Any = channel.unary_unary(
            "/trillium.controller.v1.RunService/DeleteRun",
        )
        with pytest.raises(aio.AioRpcError):
            await call(b"", timeout=20, metadata=metadata)
    (line,) = (each for each in caplog.records if "DeleteRun" in vars(each).get("method", ""))
    assert vars(line)["principal"] == "token:operate"
    assert token not in json.dumps(vars(line), default=str)


async def test_where_local_users_count_for_nothing_a_proxy_of_theirs_lends_no_rights(
    tmp_path: Path,
) -> None:
    settings = PredictorConfig(listen="127.0.0.1:0", local_users="no")
    unload = "/trillium.predictor.v1.ModelService/UnloadModel"
    async with running_predictor(settings) as predictor:
        with grpc.insecure_channel(predictor.address) as channel:
            assert await asyncio.to_thread(code_of, channel, unload, ()) == "UNAUTHENTICATED"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_gateway_behind_a_proxy_asks_for_tokens(up: Up) -> None:
    settings = GatewayConfig(
        listen="127.0.0.1:0",
        aggregator=up.aggregator,
        controller=up.controller,
        local_users="no",
    )
    async with (
        running_gateway(settings) as behind,
        aiohttp.ClientSession(f"http://{behind.address}") as session,
    ):
        async with session.get("/v1/deployments") as answer:
            assert answer.status == 401
        headers = {"authorization": f"Bearer {up.tokens[Role.VIEW]}"}
        async with session.get("/v1/deployments", headers=headers) as answer:
            assert answer.status == 200


async def test_a_unix_socket_is_its_owners_alone(tmp_path: Path) -> None:
    settings = PredictorConfig(listen=f"unix:{tmp_path / 'p.sock'}")
    unload = "/trillium.predictor.v1.ModelService/UnloadModel"
    async with running_predictor(settings):
        with grpc.insecure_channel(settings.listen) as channel:
            assert await asyncio.to_thread(code_of, channel, unload, ()) not in REFUSED
            refused = await asyncio.to_thread(code_of, channel, unload, ANONYMOUSLY)
            assert refused == "UNAUTHENTICATED"
