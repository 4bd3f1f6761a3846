"""The hosts of skills, which this server calls as a client of `palaver.v1.SkillHostService`."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from typing_extensions import Self

from palaver.v1 import skill_host_service_pb2 as pb
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub
from palaver_server.engine import schemas
from palaver_server.engine.skills import MAX_NAME_LENGTH, Invocation, failed
from palaver_server.models import Skill, SkillResult
from palaver_server.rpc.validation import SKILL_NAME

if TYPE_CHECKING:
    from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceAsyncStub

logger = logging.getLogger(__name__)


LISTING_TIMEOUT = 5.0
"""Seconds that a host has to say which skills it has."""

REFRESH_INTERVAL = 30.0
"""Seconds between two looks at a host; its skills may change when it is deployed anew."""

RETRY_INTERVAL = 2.0
"""Seconds between two looks at a host that does not answer."""

MAX_RESULT_BYTES = 256 * 1024
"""The most UTF-8 that a skill may answer with."""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)


class SkillHostsError(Exception):
    """The hosts can't be used as they are named, or two of them have a skill of the same name."""


@dataclass(frozen=True)
class Address:
    """Where a host is, and how long a skill of it may take."""

    target: str
    is_secure: bool
    timeout: float

    @classmethod
    def parse(cls, text: str, timeout: float) -> Self:
        """Reads "TARGET" or "grpcs://TARGET", with ";timeout=SECONDS" behind it where the host needs another time."""
        target, _, option = text.partition(";")
        name, _, value = option.partition("=")
        try:
            seconds = float(value) if option else timeout
        except ValueError:
            seconds = 0.0
        if not target.removeprefix("grpcs://") or (option and name.strip() != "timeout") or not 0 < seconds < math.inf:
            raise SkillHostsError(f'must be TARGET, grpcs://TARGET or either with ";timeout=SECONDS", not {text!r}')
        return cls(target.removeprefix("grpcs://").strip(), target.startswith("grpcs://"), seconds)

    def channel(self) -> grpc.aio.Channel:
        """Opens a channel."""
        if self.is_secure:
            return grpc.aio.secure_channel(self.target, grpc.ssl_channel_credentials(), CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(self.target, CHANNEL_OPTIONS)


@dataclass
class _Host:
    target: str
    timeout: float
    stub: SkillHostServiceAsyncStub
    skills: dict[str, Skill] = field(default_factory=dict)
    answers: bool | None = None
    """Whether it did when it was last asked; None before that."""


class GrpcSkillHosts:
    """Skills behind gRPC."""

    def __init__(self, hosts: Sequence[_Host]) -> None:
        self._hosts = hosts

    def offered(self) -> tuple[Skill, ...]:
        """Returns the skills that there are now. Of two with one name, the host that is named first has it."""
        skills: dict[str, Skill] = {}
        for host in self._hosts:
            for name, skill in host.skills.items():
                skills.setdefault(name, skill)
        return tuple(skills.values())

    async def invoke(self, invocation: Invocation) -> SkillResult:
        """Has the host run a skill. Whatever goes wrong becomes a result that tells the model."""
        call = invocation.call
        host = next((host for host in self._hosts if call.name in host.skills), None)
        if host is None:
            return failed(call, f"The skill {call.name} is not available at the moment.")
        request = pb.InvokeSkillRequest(
            call_id=call.id,
            name=call.name,
            arguments_json=call.arguments_json,
            assistant_id=invocation.assistant_id,
            request_id=invocation.request_id,
        )
        try:
            response = await host.stub.InvokeSkill(request, timeout=host.timeout)
        except grpc.aio.AioRpcError as error:
            logger.warning(
                "the skill %s of %s failed: %s: %s", call.name, host.target, error.code().name, error.details()
            )
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return failed(call, f"The skill {call.name} did not answer within {host.timeout:g} seconds.")
            return failed(call, f"The skill {call.name} failed.")
        return _result(call.id, call.name, response)

    async def look(self) -> None:
        """Asks all hosts for their skills; one that does not answer keeps those that it had."""
        await asyncio.gather(*map(_look, self._hosts))

    def clashes(self) -> list[str]:
        """Says which names more than one host has."""
        owners: dict[str, list[str]] = {}
        for host in self._hosts:
            for name in host.skills:
                owners.setdefault(name, []).append(host.target)
        return [f"{name} ({', '.join(targets)})" for name, targets in sorted(owners.items()) if len(targets) > 1]

    async def keep_fresh(self) -> None:
        """Looks at the hosts now and then, for ever."""
        while True:
            await asyncio.sleep(REFRESH_INTERVAL if all(host.answers for host in self._hosts) else RETRY_INTERVAL)
            await self.look()
            for clash in self.clashes():
                logger.error("two hosts have a skill of the same name, and the first one is called: %s", clash)


@asynccontextmanager
async def skill_hosts(targets: Sequence[str], timeout: float) -> AsyncIterator[GrpcSkillHosts]:
    """Connects to the hosts and finds their skills; raises `SkillHostsError`."""
    addresses = [Address.parse(text, timeout) for text in targets]
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(address.channel()) for address in addresses]
        hosts = GrpcSkillHosts(
            [
                _Host(address.target, address.timeout, SkillHostServiceStub(channel))
                for address, channel in zip(addresses, channels, strict=True)
            ]
        )
        await hosts.look()
        if clashes := hosts.clashes():
            raise SkillHostsError(f"two hosts have a skill of the same name: {'; '.join(clashes)}")
        refreshing = asyncio.create_task(hosts.keep_fresh())
        try:
            yield hosts
        finally:
            refreshing.cancel()
            await asyncio.wait([refreshing])


async def _look(host: _Host) -> None:
    try:
        listing = host.stub.ListSkills(pb.ListSkillsRequest(), timeout=LISTING_TIMEOUT)
        response: pb.ListSkillsResponse | None = await listing  # None, when it does not parse
    except grpc.aio.AioRpcError as error:
        if host.answers is not False:  # it is asked every other second, and once is enough to say
            logger.warning("the skill host %s does not answer: %s: %s", host.target, error.code().name, error.details())
        host.answers = False
        return
    host.answers = response is not None
    if response is None:
        logger.warning("the skill host %s sends what can't be understood", host.target)
        return
    skills: dict[str, Skill] = {}
    for found in response.skills:
        problem = (
            "its name must be 1 to 64 letters, digits, _ and -"
            if not SKILL_NAME.fullmatch(found.name)
            else schemas.problem(found.parameters_json_schema)
        )
        if problem:
            logger.error("the skill %r of %s can't be used: %s", found.name[:MAX_NAME_LENGTH], host.target, problem)
        elif found.name in skills:
            logger.error("the host %s has two skills %s; the first one is used", host.target, found.name)
        else:
            skills[found.name] = Skill(found.name, found.description, found.parameters_json_schema)
    host.skills = skills


def _result(call_id: str, name: str, response: pb.InvokeSkillResponse | None) -> SkillResult:
    kind = None if response is None else response.WhichOneof("outcome")
    if response is None or kind is None:
        return SkillResult(call_id, f"The skill {name} answered with nothing that can be understood.", is_error=True)
    text = response.error if kind == "error" else response.content
    if len(text.encode()) > MAX_RESULT_BYTES:
        words = f"The answer of the skill {name} has more than {MAX_RESULT_BYTES:,} bytes and is not used."
        return SkillResult(call_id, words, is_error=True)
    return SkillResult(call_id, text, is_error=kind == "error")
