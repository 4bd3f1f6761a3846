"""Skill hosts, which the server calls as a client of `palaver.v1.SkillHostService`."""

from __future__ import annotations

import logging

import grpc

from palaver.v1 import assistant_pb2
from palaver.v1 import skill_host_service_pb2 as pb
from palaver_server.domain.conversation import Skill, SkillCall, SkillResult
from palaver_server.domain.limits import (
    MAX_DESCRIPTION_CHARACTERS,
    MAX_HOST_SKILLS,
    MAX_SKILL_NAME_CHARACTERS,
    MAX_SKILL_RESULT_BYTES,
    SKILL_NAME,
    SKILL_NAME_RULE,
)
from palaver_server.domain.log_fields import fields
from palaver_server.domain.ports import SkillInvocation, TraceHeaders, no_trace_headers
from palaver_server.skills.host_addresses import Address
from palaver_server.skills.host_channels import HostChannel
from palaver_server.skills.schema_checker import SchemaChecker

logger = logging.getLogger(__name__)

LISTING_TIMEOUT = 5.0
"""Seconds that a host may take to list its skills."""

INVALID_ARGUMENTS, INVALID_RESPONSE, SKILL_ERROR = "invalid_arguments", "invalid_response", "skill_error"
"""The error types of results, besides the gRPC statuses of failed calls. A skill reports the last one itself."""

ABOUT_THE_CONNECTION = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)


class GrpcSkillHost:
    """A `SkillSource` behind gRPC."""

    def __init__(
        self, address: Address, checker: SchemaChecker, trace_headers: TraceHeaders = no_trace_headers
    ) -> None:
        """Opens a channel to the address; raises `ValueError` if its files can't be used."""
        self._checker = checker
        self._timeout = address.timeout
        self._metadata = address.metadata
        self._trace_headers = trace_headers
        self._channel = HostChannel(address)
        self._listing: pb.ListSkillsResponse | None = None
        self._skills: dict[str, Skill] = {}
        self._was_asked = False
        self.name = address.target
        self.is_available = False
        self.problems: list[str] = []
        """The problems of the host and its skills that the latest refresh found."""

    async def close(self) -> None:
        """Closes the channel and cancels its calls."""
        await self._channel.close()

    def offered(self) -> tuple[Skill, ...]:
        """Returns the skills of the latest successful refresh."""
        return tuple(self._skills.values())

    async def invoke(self, invocation: SkillInvocation) -> SkillResult:
        """Calls the host. A failure of any kind is returned as a result, for the model to read."""
        call = invocation.call
        skill = self._skills.get(call.name)
        mismatch = skill and await self._checker.arguments_error(skill.parameters_json_schema, call.arguments_json)
        if mismatch:
            return SkillResult.failure(call, mismatch, INVALID_ARGUMENTS)
        request = pb.InvokeSkillRequest(
            call_id=call.id,
            name=call.name,
            arguments_json=call.arguments_json,
            assistant_id=invocation.turn.assistant.id,
            request_id=invocation.turn.request_id,
        )
        try:
            response = await self._channel.stub.InvokeSkill(
                request, timeout=self._timeout, metadata=(*self._metadata, *self._trace_headers().items())
            )
        except grpc.aio.AioRpcError as error:
            return self._failure(call, error)
        return _result(call, response)

    def _failure(self, call: SkillCall, error: grpc.aio.AioRpcError) -> SkillResult:
        """Logs why a call failed, and returns the result for the model."""
        code = error.code()
        # A host may quote the arguments in its other errors, and they are part of the conversation.
        cause = error.details() if code in ABOUT_THE_CONNECTION else None
        logger.warning(
            "a skill call failed", extra=fields(skill=call.name, host=self.name, status=code.name, cause=cause)
        )
        text = f"The skill {call.name} failed."
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"The skill {call.name} did not answer within {self._timeout:g} seconds."
        return SkillResult.failure(call, text, code.name)

    async def refresh(self) -> None:
        """Fetches the skills of the host. If it is unavailable, it keeps the skills that it had."""
        await self._channel.renew()
        try:
            listing = self._channel.stub.ListSkills(
                pb.ListSkillsRequest(), timeout=LISTING_TIMEOUT, metadata=self._metadata
            )
            response: pb.ListSkillsResponse | None = await listing  # None if it does not parse
        except grpc.aio.AioRpcError as error:
            problem = f"the skill host {self.name} does not answer: {error.code().name}: {error.details()!r:.500}"
            self.problems = [problem]
            if self.is_available or not self._was_asked:  # it is asked again every two seconds, but logged once
                logger.warning("%s", problem)
            self.is_available, self._was_asked = False, True
            return
        self.is_available, self._was_asked, self.problems = response is not None, True, []
        if response is None:
            self._report(f"the skill host {self.name} sent a response that can't be parsed")
        elif response != self._listing:
            self._skills = await self._usable(response)
            # A skill that can't be used is checked again: the check may have failed for want of time.
            self._listing = response if len(self._skills) == len(response.skills) else None

    async def _usable(self, response: pb.ListSkillsResponse) -> dict[str, Skill]:
        """Returns the valid skills of a response by their names, and reports the others."""
        if len(response.skills) > MAX_HOST_SKILLS:
            self._report(
                f"the host {self.name} lists {len(response.skills)} skills; only the first {MAX_HOST_SKILLS} are used"
            )
        skills: dict[str, Skill] = {}
        for listed in response.skills[:MAX_HOST_SKILLS]:
            if error := await self._error_of(listed):
                name = listed.name[:MAX_SKILL_NAME_CHARACTERS]
                self._report(f"the skill {name!r} of {self.name} can't be used: {error}")
            elif listed.name in skills:
                self._report(f"the host {self.name} lists two skills named {listed.name}; the first one is used")
            elif len(listed.description) > MAX_DESCRIPTION_CHARACTERS:
                self._report(
                    f"the skill {listed.name} of {self.name} can't be used: its description has more than"
                    f" {MAX_DESCRIPTION_CHARACTERS} characters"
                )
            else:
                skills[listed.name] = Skill(listed.name, listed.description, listed.parameters_json_schema)
        return skills

    def _report(self, problem: str) -> None:
        self.problems.append(problem)
        logger.error("%s", problem)

    async def _error_of(self, listed: assistant_pb2.Skill) -> str:
        """Returns an error message if a skill can't be used, or an empty string."""
        if not SKILL_NAME.fullmatch(listed.name):
            return f"its name {SKILL_NAME_RULE}"
        error = await self._checker.schema_error(listed.parameters_json_schema)
        return f"its schema: {error}" if error else ""


def _result(call: SkillCall, response: pb.InvokeSkillResponse | None) -> SkillResult:
    outcome = None if response is None else response.WhichOneof("outcome")
    if response is None or outcome is None:
        return SkillResult.failure(
            call, f"The skill {call.name} sent a response that can't be understood.", INVALID_RESPONSE
        )
    text = response.error if outcome == "error" else response.content
    if len(text.encode()) > MAX_SKILL_RESULT_BYTES:
        return SkillResult.failure(
            call,
            f"The result of the skill {call.name} has more than {MAX_SKILL_RESULT_BYTES:,} bytes and is not used.",
            INVALID_RESPONSE,
        )
    is_error = outcome == "error"
    return SkillResult(call.id, text, is_error=is_error, error_type=SKILL_ERROR if is_error else "")
