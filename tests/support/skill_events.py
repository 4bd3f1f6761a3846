"""Skill events of a reply, as a scripted server sends them."""

from __future__ import annotations

from palaver.v1 import assistant_pb2, assistant_service_pb2


def skill_call(
    call_id: str, name: str = "clock", arguments_json: str = "{}"
) -> assistant_service_pb2.PostUserQueryResponse:
    return assistant_service_pb2.PostUserQueryResponse(
        skill_call=assistant_pb2.SkillCall(id=call_id, name=name, arguments_json=arguments_json)
    )


def skill_result(
    call_id: str, content: str | None = None, error: str | None = None
) -> assistant_service_pb2.PostUserQueryResponse:
    return assistant_service_pb2.PostUserQueryResponse(
        skill_result=assistant_pb2.SkillResult(id=call_id, content=content, error=error)
    )
