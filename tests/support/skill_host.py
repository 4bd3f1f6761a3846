"""A host of skills on a real socket, which answers as a test says and remembers what it was asked.

async with SkillHost(clock=lambda request: pb.InvokeSkillResponse(content="noon")) as host:
    ...  # a server with PALAVER_SKILL_HOSTS=host.target
    [request] = host.requests
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from typing_extensions import Self

from palaver.v1 import assistant_pb2
from palaver.v1 import skill_host_service_pb2 as pb

Answer = Callable[[pb.InvokeSkillRequest], Any]

TASK_SCHEMA = '{"type": "object", "properties": {"task": {"type": "string"}}, "required": ["task"]}'


def content(text: str) -> pb.InvokeSkillResponse:
    return pb.InvokeSkillResponse(content=text)


class SkillHost:
    """The host, for the time of its `async with` block.

    An answer is a function or a coroutine function, and returns a response, a status to fail with (in a tuple, also its
    text and metadata), or bytes that go out as they are. The schema is that of all skills, or there is one for each of
    them by its name.
    """

    def __init__(
        self,
        schema: str | Mapping[str, str] = TASK_SCHEMA,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        **answers: Answer,
    ) -> None:
        self.schema = schema
        self.answers = answers
        self.requests: list[pb.InvokeSkillRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        """The metadata of the calls of skills."""
        self.tokens: list[str | bytes | None] = []
        """The `authorization` of all calls, or None for those without."""
        self.listed = asyncio.Event()
        """Set when the skills were listed."""
        self.listing: bytes | None = None
        """Bytes that are sent instead of the list of skills."""
        self._address = address
        self._credentials = credentials
        self._server: grpc.aio.Server | None = None
        self.target = ""

    async def __aenter__(self) -> Self:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "palaver.v1.SkillHostService",
                    {
                        "ListSkills": _handler(self._list_skills, pb.ListSkillsRequest),
                        "InvokeSkill": _handler(self._invoke_skill, pb.InvokeSkillRequest),
                    },
                )
            ]
        )
        port = (
            self._server.add_insecure_port(self._address)
            if self._credentials is None
            else self._server.add_secure_port(self._address, self._credentials)
        )
        self.target = f"127.0.0.1:{port}"
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stops the host and all calls in progress, as a crash would."""
        assert self._server is not None
        await self._server.stop(None)

    async def _list_skills(self, request: pb.ListSkillsRequest, context: Any) -> pb.ListSkillsResponse | bytes:
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        self.listed.set()
        if self.listing is not None:
            return self.listing
        return pb.ListSkillsResponse(
            skills=[
                assistant_pb2.Skill(
                    name=name,
                    description=f"The {name} skill.",
                    parameters_json_schema=self.schema if isinstance(self.schema, str) else self.schema[name],
                )
                for name in self.answers
            ]
        )

    async def _invoke_skill(self, request: pb.InvokeSkillRequest, context: Any) -> Any:
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        answer = self.answers[request.name](request)
        if inspect.isawaitable(answer):
            answer = await answer
        if isinstance(answer, grpc.StatusCode):
            await context.abort(answer, "secret detail")
        if isinstance(answer, tuple):
            await context.abort(*answer)
        return answer


def _handler(answer: Any, request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=request.FromString,
        response_serializer=lambda response: response if isinstance(response, bytes) else response.SerializeToString(),
    )
