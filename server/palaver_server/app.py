"""The wiring: stores, models, engine, services and health, made from the settings. Nothing else puts them together."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from palaver.v1 import assistant_service_pb2_grpc
from palaver_server import connections
from palaver_server.azure_credentials import Credential, TokenProvider, credential, token_provider
from palaver_server.connections import AIConnection, Database, Identity, TableAccount
from palaver_server.engine.chat import ChatEngine
from palaver_server.engine.model import ChatModel
from palaver_server.engine.openai_model import OpenAIModel
from palaver_server.engine.skills import SkillHosts
from palaver_server.errors import ConnectionNotConfigured, StoreError
from palaver_server.offline_model import OfflineModel
from palaver_server.rpc.assistant_service import NAME, AssistantService
from palaver_server.rpc.interceptor import ErrorInterceptor
from palaver_server.rpc.skill_hosts import SkillHostsError, skill_hosts
from palaver_server.settings import Settings, SettingsError
from palaver_server.stores.azure_tables import AzureTablesStore
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.stores.store import Limits, Store

logger = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 2 * 1024 * 1024
FLUSH_TIMEOUT = 5.0
"""Seconds that callers get to read the end of a turn that finished while the server was stopping."""

LINGER = 0.5
"""Seconds in which callers whose turns have ended are told that the server shuts down, before it stops.

gRPC tells a call that arrives while it stops that it was cancelled (https://github.com/grpc/grpc/issues/41785), which
nobody posts again. The end of a turn is what both the stop and a caller's next turn wait for, so they would often meet.
"""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),
    # Without a limit one connection can open thousands of handlers in seconds.
    ("grpc.max_concurrent_streams", 1000),
    # A frozen or vanished client is noticed after these times, and only with both of the time-outs.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    # The clients ping every 30 seconds. One that pings more often than this is cut off with too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


class AIConnections:
    """The AI connections of the server: those that callers may name, and the fallback."""

    def __init__(self, models: Mapping[str, ChatModel], fallback: str | None) -> None:
        """Takes the models by name; `fallback` is the name of the one that serves every other request."""
        self._models = models
        self._fallback = fallback

    def resolve(self, name: str) -> tuple[str, ChatModel]:
        """Returns the connection of this name, or the fallback."""
        if name != self._fallback and name in self._models:
            return name, self._models[name]
        if self._fallback is None:
            raise ConnectionNotConfigured(
                f"the server has no AI connection{f' {name!r}' if name else ''}, and no fallback: "
                "set OPENAI_API_KEY, or AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_KEY, or PALAVER_OFFLINE_MODEL"
            )
        return self._fallback, self._models[self._fallback]


class Application:
    """A server that listens."""

    def __init__(
        self, port: int, server: grpc.aio.Server, engine: ChatEngine, checks: health.aio.HealthServicer
    ) -> None:
        self.port = port
        self._server = server
        self._engine = engine
        self._checks = checks

    async def stop(self, grace: float) -> None:
        """Turns NOT_SERVING, refuses new turns, lets the running ones finish for so many seconds, and stops."""
        await self._checks.enter_graceful_shutdown()
        await self._engine.drain(grace)
        await asyncio.sleep(LINGER)
        await self._server.stop(FLUSH_TIMEOUT)


@asynccontextmanager
async def application(
    settings: Settings, environment: Mapping[str, str], *, share_port: bool = False
) -> AsyncIterator[Application]:
    """Starts a server; leaving the block stops it at once if it was not stopped before. Raises `SettingsError`."""
    async with AsyncExitStack() as stack:
        stores = await _open_stores(settings, environment, stack)
        models = await _open_models(settings, environment, stack)
        skills = await _open_skill_hosts(settings, stack)
        engine = ChatEngine(stores, models, settings.engine_options(), skills)
        server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            options=(*CHANNEL_OPTIONS, ("grpc.so_reuseport", int(share_port))),
        )
        assistant_service_pb2_grpc.add_AssistantServiceServicer_to_server(AssistantService(engine), server)
        checks = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        if settings.reflection:
            reflection.enable_server_reflection((NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        port = _bind(server, settings)
        await server.start()
        stack.push_async_callback(server.stop, None)
        for name in ("", NAME):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        yield Application(port, server, engine, checks)


async def _open_stores(settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack) -> dict[str, Store]:
    limits = settings.store_limits()
    return {
        name: await (
            _open_database(name, connection.path, limits, stack)
            if isinstance(connection, Database)
            else _open_tables(name, connection, limits, stack)
        )
        for name, connection in connections.storage_connections(settings, environment).items()
    }


async def _open_database(name: str, path: Path, limits: Limits, stack: AsyncExitStack) -> SqliteStore:
    store = SqliteStore(path, limits)
    stack.push_async_callback(store.close)
    try:
        await store.open()
    except StoreError as error:
        # Callers of another connection should not suffer from this one; without the default, few can do anything.
        if name == connections.DEFAULT_STORAGE:
            raise SettingsError(f"the database {path} can't be used: {error}") from error
        logger.exception("the database %s of %s can't be used; each call will try again", path, name)
    return store


async def _open_tables(name: str, account: TableAccount, limits: Limits, stack: AsyncExitStack) -> AzureTablesStore:
    identity = None if account.identity is None else await _credential(account.identity, stack)
    store = AzureTablesStore(
        connection_string=account.connection_string, uri=account.uri, credential=identity, limits=limits
    )
    try:
        await store.open()
    except ValueError as error:
        # The SDK's own words may quote the key.
        raise SettingsError(
            f'{name}: must be a connection string of Azure Storage, "UseDevelopmentStorage=true" or "sqlite:PATH"'
        ) from error
    stack.push_async_callback(store.close)
    return store


async def _credential(identity: Identity, stack: AsyncExitStack) -> Credential:
    made = credential(identity)
    stack.push_async_callback(made.close)
    return made


async def _open_models(settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack) -> AIConnections:
    configured = connections.ai_connections(settings, environment)
    if settings.offline_model:
        offline = await stack.enter_async_context(OfflineModel())
        fallback: AIConnection | None = AIConnection(connections.OFFLINE, offline.base_url, "offline")
    else:
        fallback = connections.fallback_connection(environment)
    if fallback is not None:
        configured.append(fallback)
    elif not configured:
        logger.warning("no AI connection is configured: every user query will fail; see the README on real models")
    models = {}
    for connection in configured:
        api_key: str | TokenProvider = connection.api_key or ""
        if connection.identity is not None:
            api_key = token_provider(await _credential(connection.identity, stack))
        model = models[connection.name] = OpenAIModel(
            api_key=api_key, base_url=connection.base_url, api_version=connection.api_version
        )
        stack.push_async_callback(model.close)
    return AIConnections(models, fallback.name if fallback else None)


async def _open_skill_hosts(settings: Settings, stack: AsyncExitStack) -> SkillHosts:
    try:
        return await stack.enter_async_context(skill_hosts(settings.skill_hosts, settings.skill_timeout))
    except SkillHostsError as error:
        raise SettingsError(f"PALAVER_SKILL_HOSTS: {error}") from error


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    credentials = _credentials(settings)
    try:
        if credentials is None:
            return server.add_insecure_port(settings.listen)
        return server.add_secure_port(settings.listen, credentials)
    except RuntimeError as error:
        raise SettingsError(f"PALAVER_LISTEN: can't listen on {settings.listen}; is the port taken?") from error


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    names = "PALAVER_TLS_CERTIFICATE, PALAVER_TLS_KEY"
    try:
        # gRPC itself only says that it can't listen. What Python's own TLS loads, gRPC's does too.
        # An empty password keeps an encrypted key from being asked for on the terminal.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
        pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
    except ssl.SSLError as error:
        raise SettingsError(f"{names}: not a certificate and its key in PEM: {error.reason or error}") from error
    except OSError as error:
        raise SettingsError(f"{names}: {error.strerror}: {error.filename}") from error
    return grpc.ssl_server_credentials([pair])
