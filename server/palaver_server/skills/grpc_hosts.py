"""Skill hosts, which the server calls as a client of `palaver.v1.SkillHostService`."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from typing_extensions import Self

from palaver.v1 import assistant_pb2
from palaver.v1 import skill_host_service_pb2 as pb
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub
from palaver_server.domain.conversation import Skill, SkillCall, SkillResult
from palaver_server.domain.limits import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_HOST_SKILLS,
    MAX_SKILL_NAME_CHARACTERS,
    MAX_SKILL_RESULT_BYTES,
    SKILL_NAME,
    SKILL_NAME_RULE,
)
from palaver_server.domain.ports import SkillInvocation
from palaver_server.skills.schema_checker import SchemaChecker

if TYPE_CHECKING:
    from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceAsyncStub

logger = logging.getLogger(__name__)

LISTING_TIMEOUT = 5.0
"""Seconds that a host may take to list its skills."""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
)

PRIVATE_PARTS = re.compile(r"[@?#]")
"""The marks of parts of a URL that may hold a secret. gRPC would take them for a part of the host's name."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a host, and the time limit of its skills in seconds."""

    target: str
    is_secure: bool
    timeout: float

    @classmethod
    def parse(cls, text: str, timeout: float) -> Self:
        """Parses "TARGET" or "grpcs://TARGET", with an optional ";timeout=SECONDS"; raises `ValueError`.

        `timeout` is the time limit if the text has none.
        """
        target, _, option = text.partition(";")
        name, _, value = option.partition("=")
        try:
            seconds = float(value) if option else timeout
        except ValueError:
            seconds = 0.0
        if PRIVATE_PARTS.search(target):
            raise ValueError("an address must have no user name, query string or fragment")
        if not target.removeprefix("grpcs://") or (option and name.strip() != "timeout") or not 0 < seconds < math.inf:
            raise ValueError(f'must be TARGET or grpcs://TARGET, with an optional ";timeout=SECONDS", not {text!r}')
        return cls(target.removeprefix("grpcs://").strip(), target.startswith("grpcs://"), seconds)

    def channel(self) -> grpc.aio.Channel:
        """Returns a new channel to the host."""
        if self.is_secure:
            return grpc.aio.secure_channel(self.target, grpc.ssl_channel_credentials(), CHANNEL_OPTIONS)
        return grpc.aio.insecure_channel(self.target, CHANNEL_OPTIONS)


class GrpcSkillHost:
    """A `SkillSource` behind gRPC."""

    def __init__(self, address: Address, channel: grpc.aio.Channel, checker: SchemaChecker) -> None:
        """Takes a channel to the address. The caller closes the channel."""
        self._checker = checker
        self._timeout = address.timeout
        self._stub: SkillHostServiceAsyncStub = SkillHostServiceStub(channel)
        self._listing: pb.ListSkillsResponse | None = None
        self._skills: dict[str, Skill] = {}
        self._was_asked = False
        self.name = address.target
        self.is_available = False

    def offered(self) -> tuple[Skill, ...]:
        """Returns the skills of the latest successful refresh."""
        return tuple(self._skills.values())

    async def invoke(self, invocation: SkillInvocation) -> SkillResult:
        """Calls the host. A failure of any kind is returned as a result, for the model to read."""
        call = invocation.call
        skill = self._skills.get(call.name)
        mismatch = skill and await self._checker.arguments_error(skill.parameters_json_schema, call.arguments_json)
        if mismatch:
            return SkillResult.failure(call, mismatch)
        request = pb.InvokeSkillRequest(
            call_id=call.id,
            name=call.name,
            arguments_json=call.arguments_json,
            assistant_id=invocation.turn.assistant.id,
            request_id=invocation.turn.request_id,
        )
        try:
            response = await self._stub.InvokeSkill(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            logger.warning(
                "the skill %s of %s failed: %s: %.500r", call.name, self.name, error.code().name, error.details()
            )
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return SkillResult.failure(
                    call, f"The skill {call.name} did not answer within {self._timeout:g} seconds."
                )
            return SkillResult.failure(call, f"The skill {call.name} failed.")
        return _result(call, response)

    async def refresh(self) -> None:
        """Fetches the skills of the host. If it is unavailable, it keeps the skills that it had."""
        try:
            listing = self._stub.ListSkills(pb.ListSkillsRequest(), timeout=LISTING_TIMEOUT)
            response: pb.ListSkillsResponse | None = await listing  # None if it does not parse
        except grpc.aio.AioRpcError as error:
            if self.is_available or not self._was_asked:  # it is asked again every two seconds, but logged once
                logger.warning(
                    "the skill host %s does not answer: %s: %.500r", self.name, error.code().name, error.details()
                )
            self.is_available, self._was_asked = False, True
            return
        self.is_available, self._was_asked = response is not None, True
        if response is None:
            logger.warning("the skill host %s sent a response that can't be parsed", self.name)
        elif response != self._listing:
            self._skills = await self._usable(response)
            # A skill that can't be used is checked again: the check may have failed for want of time.
            self._listing = response if len(self._skills) == len(response.skills) else None

    async def _usable(self, response: pb.ListSkillsResponse) -> dict[str, Skill]:
        """Returns the valid skills of a response by their names, and logs the others."""
        if len(response.skills) > MAX_HOST_SKILLS:
            logger.error(
                "the host %s lists %d skills; only the first %d are used",
                self.name, len(response.skills), MAX_HOST_SKILLS,
            )  # fmt: skip
        skills: dict[str, Skill] = {}
        for listed in response.skills[:MAX_HOST_SKILLS]:
            if error := await self._error_of(listed):
                name = listed.name[:MAX_SKILL_NAME_CHARACTERS]
                logger.error("the skill %r of %s can't be used: %s", name, self.name, error)
            elif listed.name in skills:
                logger.error("the host %s lists two skills named %s; the first one is used", self.name, listed.name)
            elif len(listed.description) > MAX_DESCRIPTION_CHARACTERS:
                logger.error(
                    "the skill %s of %s can't be used: its description has more than %d characters",
                    listed.name, self.name, MAX_DESCRIPTION_CHARACTERS,
                )  # fmt: skip
            else:
                skills[listed.name] = Skill(listed.name, listed.description, listed.parameters_json_schema)
        return skills

    async def _error_of(self, listed: assistant_pb2.Skill) -> str:
        """Returns an error message if a skill can't be used, or an empty string."""
        if not SKILL_NAME.fullmatch(listed.name):
            return f"its name {SKILL_NAME_RULE}"
        error = await self._checker.schema_error(listed.parameters_json_schema)
        return f"its schema: {error}" if error else ""


def _result(call: SkillCall, response: pb.InvokeSkillResponse | None) -> SkillResult:
    outcome = None if response is None else response.WhichOneof("outcome")
    if response is None or outcome is None:
        return SkillResult.failure(call, f"The skill {call.name} sent a response that can't be understood.")
    text = response.error if outcome == "error" else response.content
    if len(text.encode()) > MAX_SKILL_RESULT_BYTES:
        return SkillResult.failure(
            call, f"The result of the skill {call.name} has more than {MAX_SKILL_RESULT_BYTES:,} bytes and is not used."
        )
    return SkillResult(call.id, text, is_error=outcome == "error")
