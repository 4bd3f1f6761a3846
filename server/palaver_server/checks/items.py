"""The checks. Each one opens a part of the server as the server would, and closes it again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from anyio import to_thread

from palaver_server import connections, opening
from palaver_server.callers.authenticator import callers_of
from palaver_server.callers.blocks import CallerBlock
from palaver_server.checks.certificates import authorities_outcome, certificate_outcome
from palaver_server.checks.outcomes import Outcome, Result, Status
from palaver_server.connections import AIConnection, Database
from palaver_server.domain.conversation import Content, Draft, Role
from palaver_server.domain.errors import ModelError, ModelRateLimited
from palaver_server.domain.generation import GenerationOptions
from palaver_server.domain.ports import ChatModel, Prompt
from palaver_server.domain.redaction import redacted, secrets_in
from palaver_server.domain.stages import Observers
from palaver_server.exposure import check_exposure
from palaver_server.health import probe_store
from palaver_server.reloading import WatchedFiles
from palaver_server.settings import Settings, SettingsError, unknown_variables
from palaver_server.skills.catalogue import SkillCatalogue
from palaver_server.skills.grpc_hosts import GrpcSkillHost
from palaver_server.skills.host_addresses import Address
from palaver_server.stores.sqlite.inspection import inspect_database
from palaver_server.telemetry.causes import cause_of

P = ParamSpec("P")
T = TypeVar("T")

TIMEOUT = 30.0
"""Seconds that a check may take: as long as a small model takes to be loaded. All checks run at the same time."""

MAX_NAMES = 20
"""The skills or callers that a line names at most."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name, and a function that finds out, or raises an exception that says what is wrong."""

    name: str
    run: Callable[[AsyncExitStack], Awaitable[Outcome]]


async def check_all(settings: Settings, environment: Mapping[str, str]) -> list[Result]:
    """Makes all checks at the same time, and returns their results in the order of the settings."""
    hosts: list[GrpcSkillHost] = []
    secrets = secrets_in(environment)
    results = await asyncio.gather(*(_result(check, secrets) for check in _checks(settings, environment, hosts)))
    if conflicts := SkillCatalogue(hosts).conflicts():
        detail = f"two hosts provide a skill with the same name: {'; '.join(conflicts)}"
        results.append(Result("skill names", Status.FAILED, detail, 0.0))
    return results


async def _result(check: Check, secrets: tuple[str, ...]) -> Result:
    started = time.monotonic()
    try:
        outcome = await asyncio.wait_for(_outcome(check), TIMEOUT)
    except asyncio.TimeoutError:
        outcome = Outcome(Status.FAILED, f"no answer within {TIMEOUT:g} s")
    except Exception as error:  # whatever it is, the others go on
        outcome = Outcome(Status.FAILED, cause_of(error, quotes=True))
    return Result(check.name, outcome.status, redacted(outcome.detail, secrets), time.monotonic() - started)


async def _outcome(check: Check) -> Outcome:
    async with AsyncExitStack() as stack:
        return await check.run(stack)


def _checks(settings: Settings, environment: Mapping[str, str], hosts: list[GrpcSkillHost]) -> Iterator[Check]:
    yield Check("settings", partial(_settings, settings, environment))
    for name in settings.storage_connections:
        yield Check(f"storage connection {name}", partial(_storage, name, settings, environment))
    yield Check("default AI connection", partial(_default_model, settings, environment))
    for name in settings.ai_connections:
        yield Check(f"AI connection {name}", partial(_named_model, name, settings, environment))
    if (callers := opening.callers_files(settings)) is not None:
        yield Check("callers", partial(_callers, callers))
    if (certificates := opening.certificate_files(settings)) is not None and settings.tls_certificate is not None:
        yield Check("TLS certificate", partial(_certificate, certificates, settings.tls_certificate))
    if settings.tls_client_ca is not None:
        yield Check("TLS client authorities", partial(_pem_file, authorities_outcome, settings.tls_client_ca))
    for number, text in enumerate(settings.skill_hosts, start=1):
        yield from _skill_host_checks(number, text, settings, environment, hosts)


async def _settings(settings: Settings, environment: Mapping[str, str], _stack: AsyncExitStack) -> Outcome:
    unknown = (f"{name} is not a setting of this server" for name in unknown_variables(environment))
    return Outcome.ok("valid", *filter(None, (check_exposure(settings), *unknown)))


async def _storage(name: str, settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack) -> Outcome:
    connection = connections.storage_connection(name, settings, environment)
    timeouts = settings.store_timeouts()
    if isinstance(connection, Database):
        return Outcome.ok(await _in_thread(inspect_database, connection.path, timeouts.call))
    await probe_store(await opening.open_azure_store(name, connection, timeouts, Observers(), stack))
    return Outcome.ok("the tables can be read")


async def _default_model(settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack) -> Outcome:
    connection = await opening.open_default_connection(settings, environment, stack)
    if connection is not None:
        outcome = await _model(connection, settings, stack)
        return replace(outcome, detail=f"{connection.name}: {outcome.detail}")
    if settings.ai_connections:
        return Outcome.ok("there is none; every request must name its connection")
    raise SettingsError(opening.NO_AI_CONNECTION)


async def _named_model(name: str, settings: Settings, environment: Mapping[str, str], stack: AsyncExitStack) -> Outcome:
    return await _model(connections.ai_connection(name, settings, environment), settings, stack)


async def _model(connection: AIConnection, settings: Settings, stack: AsyncExitStack) -> Outcome:
    model = opening.open_model(connection, stack)
    prompt = _smallest_prompt(connection.name, settings)
    try:
        if await model.lists_models():
            return Outcome.ok("the endpoint lists its models")
        await _call(model, prompt)
    except ModelError as error:
        # A busy endpoint works, and a retry of the turn will find it less busy.
        status = Status.WARNING if isinstance(error, ModelRateLimited) else Status.FAILED
        return Outcome(status, cause_of(error, quotes=True))
    called = prompt.parameters.chat_model
    return Outcome.ok(f"the endpoint has no list of models; {called} answered a call for one token")


def _smallest_prompt(connection: str, settings: Settings) -> Prompt:
    parameters = settings.engine_options().generation.resolve(GenerationOptions(max_tokens=1), connection)
    return Prompt((Draft(Role.USER, Content("Hi")),), parameters)


async def _call(model: ChatModel, prompt: Prompt) -> None:
    async with aclosing(model.stream(prompt)) as deltas:
        async for _ in deltas:
            pass


async def _callers(files: WatchedFiles[tuple[CallerBlock, ...]], stack: AsyncExitStack) -> Outcome:
    blocks = await _in_thread(opening.loaded, files)
    callers = await stack.enter_async_context(callers_of(blocks))
    if problems := await callers.problems():
        return Outcome(Status.FAILED, "; ".join(problems))
    return Outcome.ok(_listed("caller", [block.name for block in blocks]))


async def _certificate(files: WatchedFiles[Any], certificate: Path, stack: AsyncExitStack) -> Outcome:
    await _in_thread(opening.loaded, files)
    return await _pem_file(certificate_outcome, certificate, stack)


async def _pem_file(outcome: Callable[[bytes], Outcome], file: Path, _stack: AsyncExitStack) -> Outcome:
    return outcome(await _in_thread(file.read_bytes))


def _skill_host_checks(
    number: int, text: str, settings: Settings, environment: Mapping[str, str], hosts: list[GrpcSkillHost]
) -> Iterator[Check]:
    try:
        address = Address.parse(text, settings.skill_timeout, environment)
        authorities, _, certificate = (None, None, None) if address.tls is None else address.tls.read()
    except ValueError as error:
        yield Check(f"skill host {number}", partial(_invalid_address, error))
        return
    yield Check(f"skill host {address.target}", partial(_skill_host, address, hosts))
    if certificate is not None:
        yield Check(f"certificate for skill host {address.target}", partial(_pem, certificate_outcome, certificate))
    if authorities is not None:
        yield Check(f"authorities of skill host {address.target}", partial(_pem, authorities_outcome, authorities))


async def _invalid_address(error: ValueError, _stack: AsyncExitStack) -> Outcome:
    raise SettingsError(f"PALAVER_SKILL_HOSTS: {error}")


async def _pem(outcome: Callable[[bytes], Outcome], pem: bytes, _stack: AsyncExitStack) -> Outcome:
    return outcome(pem)


async def _skill_host(address: Address, hosts: list[GrpcSkillHost], stack: AsyncExitStack) -> Outcome:
    host = await opening.open_skill_host(address, stack)
    hosts.append(host)
    await host.refresh()
    if not host.is_available:
        return Outcome(Status.FAILED, "; ".join(host.problems))
    return Outcome.ok(_listed("skill", [skill.name for skill in host.offered()]), *host.problems)


async def _in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Calls a function that may wait for a disk, which nothing can end."""
    return await to_thread.run_sync(partial(function, *arguments, **named), abandon_on_cancel=True)


def _listed(noun: str, names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    count = f"{len(names)} {noun}{'' if len(names) == 1 else 's'}"
    return f"{count}: {', '.join(names[:MAX_NAMES])}{more}" if names else count
