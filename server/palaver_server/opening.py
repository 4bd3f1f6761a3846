"""The parts of a server, opened one by one: stores, models, skill hosts, certificates and callers.

What is opened is closed by the stack that is passed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from palaver_server import connections
from palaver_server.callers.authenticator import callers_of
from palaver_server.callers.blocks import CallerBlock
from palaver_server.callers.config import CallersError, parse_callers
from palaver_server.connections import AIConnection, Database, Identity, TableAccount
from palaver_server.credentials import Credential, TokenProvider, credential, is_found, token_provider
from palaver_server.domain.conversation import DEFAULT_STORAGE_CONNECTION
from palaver_server.domain.errors import StoreError
from palaver_server.domain.ports import SkillSource, Store, TraceHeaders, no_trace_headers
from palaver_server.domain.stages import Observer
from palaver_server.llm.offline import OfflineModel
from palaver_server.llm.openai import OpenAIModel
from palaver_server.reloading import FileError, Reloading, WatchedFiles
from palaver_server.settings import Settings, SettingsError
from palaver_server.skills.catalogue import SkillConflict, skill_catalogue
from palaver_server.skills.grpc_hosts import GrpcSkillHost
from palaver_server.skills.host_addresses import Address
from palaver_server.skills.schema_checker import schema_checker
from palaver_server.stores.azure import AzureTablesStore
from palaver_server.stores.common import StoreTimeouts
from palaver_server.stores.sqlite import SqliteStore
from palaver_server.telemetry.telemetry import Telemetry
from palaver_server.transports.auth import authentication
from palaver_server.transports.handlers import Interceptor
from palaver_server.transports.tls import ServerTls, certificate_configuration

if TYPE_CHECKING:
    from grpc import ServerCertificateConfiguration

logger = logging.getLogger(__name__)

NO_AI_CONNECTION = (
    "no AI connection is configured: every user query will fail; set OPENAI_API_KEY, or AZURE_OPENAI_ENDPOINT"
)

T = TypeVar("T")


async def open_stores(
    storage: Mapping[str, Database | TableAccount],
    timeouts: StoreTimeouts,
    observer: Observer,
    stack: AsyncExitStack,
) -> dict[str, Store]:
    """Opens the stores of storage connections; raises `SettingsError`."""
    return {
        name: await (
            _open_sqlite_store(name, connection.path, timeouts, observer, stack)
            if isinstance(connection, Database)
            else open_azure_store(name, connection, timeouts, observer, stack)
        )
        for name, connection in storage.items()
    }


async def _open_sqlite_store(
    name: str, path: Path, timeouts: StoreTimeouts, observer: Observer, stack: AsyncExitStack
) -> SqliteStore:
    store = SqliteStore(path, timeouts, observer)
    stack.push_async_callback(store.close)
    try:
        await store.open()
    except StoreError as error:
        # A damaged database must not affect the callers of other connections. Without the default one, however, most
        # callers can do nothing.
        if name == DEFAULT_STORAGE_CONNECTION:
            raise SettingsError(f"the database {path} can't be used: {error}") from error
        logger.exception("the database %s of %s can't be used; each call will try again", path, name)
    return store


async def open_azure_store(
    name: str, account: TableAccount, timeouts: StoreTimeouts, observer: Observer, stack: AsyncExitStack
) -> AzureTablesStore:
    """Opens a store in an account of Azure; raises `SettingsError`."""
    identity = None if account.identity is None else _open_credential(account.identity, stack)
    # As with a damaged database, most callers could do nothing without the default connection.
    if name == DEFAULT_STORAGE_CONNECTION and identity is not None and not await is_found(identity):
        raise SettingsError(
            f"{account.variable}: the tables need an Azure identity, and none is found on this machine; to use another "
            f'store, set {name} to a connection string or to "sqlite:PATH" in its place'
        )
    store = AzureTablesStore(
        connection_string=account.connection_string,
        uri=account.uri,
        credential=identity,
        timeouts=timeouts,
        observer=observer,
    )
    try:
        await store.open()
    except ValueError as error:
        # The SDK's own text may quote the key.
        raise SettingsError(
            f'{name}: must be a connection string of Azure Storage, "UseDevelopmentStorage=true" or "sqlite:PATH"'
        ) from error
    stack.push_async_callback(store.close)
    return store


def _open_credential(identity: Identity, stack: AsyncExitStack) -> Credential:
    opened = credential(identity)
    stack.push_async_callback(opened.close)
    return opened


async def open_ai_connections(
    settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack
) -> tuple[list[AIConnection], AIConnection | None]:
    """Returns all AI connections, and the one of them for requests that name no other."""
    configured = connections.ai_connections(settings, environment)
    fallback = await open_default_connection(settings, environment, stack)
    if fallback is not None:
        configured.append(fallback)
    elif not configured:
        logger.warning("%s", NO_AI_CONNECTION)
    return configured, fallback


async def open_default_connection(
    settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack
) -> AIConnection | None:
    """Returns the AI connection for requests that name no other, or None if there is none; raises `SettingsError`."""
    if settings.offline_model:
        offline = await stack.enter_async_context(OfflineModel())
        return AIConnection(connections.OFFLINE, offline.base_url, "offline")
    fallback = connections.fallback_connection(environment)
    if fallback is None and settings.health_requires_model:
        raise SettingsError(
            "PALAVER_HEALTH_REQUIRES_MODEL: there is no default AI connection; set OPENAI_API_KEY, or "
            "AZURE_OPENAI_ENDPOINT"
        )
    return fallback


def open_model(
    connection: AIConnection, stack: AsyncExitStack, trace_headers: TraceHeaders = no_trace_headers
) -> OpenAIModel:
    """Returns the model behind an AI connection."""
    api_key: str | TokenProvider = connection.api_key or ""
    if connection.identity is not None:
        api_key = token_provider(_open_credential(connection.identity, stack))
    model = OpenAIModel(
        api_key=api_key,
        name=connection.name,
        base_url=connection.base_url,
        api_version=connection.api_version,
        trace_headers=trace_headers,
    )
    stack.push_async_callback(model.close)
    return model


async def open_hosts(
    settings: Settings, environment: Mapping[str, str], telemetry: Telemetry, stack: AsyncExitStack
) -> list[GrpcSkillHost]:
    """Opens the channels to the skill hosts of the settings; raises `SettingsError`."""
    hosts = []
    try:
        for text in settings.skill_hosts:
            address = Address.parse(text, settings.skill_timeout, environment)
            hosts.append(await open_skill_host(address, stack, telemetry.trace_headers))
    except ValueError as error:
        raise SettingsError(f"PALAVER_SKILL_HOSTS: {error}") from error
    return hosts


async def open_skill_host(
    address: Address, stack: AsyncExitStack, trace_headers: TraceHeaders = no_trace_headers
) -> GrpcSkillHost:
    """Opens the channel to a skill host; raises `ValueError` if its files can't be used."""
    host = GrpcSkillHost(address, await stack.enter_async_context(schema_checker()), trace_headers)
    stack.push_async_callback(host.close)
    return host


async def open_skills(hosts: Sequence[GrpcSkillHost], stack: AsyncExitStack) -> SkillSource:
    """Returns the skills of all hosts; raises `SettingsError` if two have the same skill."""
    try:
        return await stack.enter_async_context(skill_catalogue(hosts))
    except SkillConflict as error:
        raise SettingsError(f"PALAVER_SKILL_HOSTS: {error}") from error


def open_tls(settings: Settings, reloading: Reloading) -> ServerTls | None:
    """Returns the certificates of the listener, or None without TLS; raises `SettingsError`."""
    files = certificate_files(settings)
    if files is None:
        return None
    tls = ServerTls(loaded(files), requires_client_certificate=settings.tls_client_ca is not None)
    reloading.watch(files, tls.use)
    return tls


def certificate_files(settings: Settings) -> WatchedFiles[ServerCertificateConfiguration] | None:
    """Returns the files of the listener's certificates, or None without TLS."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    authorities = settings.tls_client_ca
    return WatchedFiles(
        "PALAVER_TLS_CERTIFICATE, PALAVER_TLS_KEY" + (", PALAVER_TLS_CLIENT_CA" if authorities else ""),
        (settings.tls_certificate, settings.tls_key, *((authorities,) if authorities else ())),
        certificate_configuration,
    )


async def open_callers(settings: Settings, stack: AsyncExitStack, reloading: Reloading) -> tuple[Interceptor, ...]:
    """Returns the interceptors that identify callers, if there is a callers' file; raises `SettingsError`."""
    files = callers_files(settings)
    if files is None:
        return ()
    blocks = loaded(files)
    callers = await stack.enter_async_context(callers_of(blocks))
    reloading.watch(files, callers.use)
    return (authentication(callers),)


def callers_files(settings: Settings) -> WatchedFiles[tuple[CallerBlock, ...]] | None:
    """Returns the callers' file, or None without callers."""
    if settings.callers is None:
        return None

    def parse(data: bytes) -> tuple[CallerBlock, ...]:
        blocks = parse_callers(data)
        for block in blocks:
            if block.certificates is not None and settings.tls_client_ca is None:
                raise CallersError(f"[callers.{block.name}] client_certificate: needs PALAVER_TLS_CLIENT_CA")
        return blocks

    return WatchedFiles("PALAVER_CALLERS", (settings.callers,), parse)


def loaded(files: WatchedFiles[T]) -> T:
    """Returns the value of files; raises `SettingsError`."""
    try:
        return files.load()
    except FileError as error:
        raise SettingsError(f"{files.name}: {error}") from error
