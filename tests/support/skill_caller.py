"""A caller of a skill host, as the server is one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import grpc

from palaver.v1.skill_host_service_pb2 import InvokeSkillRequest, InvokeSkillResponse, ListSkillsRequest
from palaver.v1.skill_host_service_pb2_grpc import SkillHostServiceStub

_call_ids = map("call-{}".format, itertools.count(1))


@dataclass(frozen=True)
class Caller:
    """Calls a host. Every call gets a new `call_id`, unless one is given."""

    channel: grpc.aio.Channel

    @property
    def stub(self) -> SkillHostServiceStub:
        return SkillHostServiceStub(self.channel)

    async def skills(self) -> list[Any]:
        return list((await self.stub.ListSkills(ListSkillsRequest())).skills)

    def invoke(self, name: str, arguments_json: str = "{}", **fields: str) -> Any:
        request = {"call_id": next(_call_ids), "assistant_id": "a", "request_id": "r"} | fields
        return self.stub.InvokeSkill(InvokeSkillRequest(name=name, arguments_json=arguments_json, **request))


def content(text: str) -> InvokeSkillResponse:
    return InvokeSkillResponse(content=text)


def error(text: str) -> InvokeSkillResponse:
    return InvokeSkillResponse(error=text)
