"""`SkillHost`, the gRPC server that serves skills."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from palaver._certificates import read_key_pair
from palaver.skills._calls import Calls
from palaver.skills._definition import Definition, definition_of
from palaver.skills._outcome import logger
from palaver.skills._tokens import Tokens
from palaver.skills._types import Invocation
from palaver.v1 import assistant_pb2, skill_host_service_pb2

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self

    _Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_Request = TypeVar("_Request", bound=Message)

DEFAULT_LISTEN = "127.0.0.1:50061"
DEFAULT_REMEMBER = 1000
DEFAULT_THREADS = 32
DEFAULT_GRACE_PERIOD = 30.0

_SERVICE = skill_host_service_pb2.DESCRIPTOR.services_by_name["SkillHostService"].full_name
_FLUSH_TIMEOUT = 5.0
"""How many seconds callers have to receive their outcome after the last function has finished."""
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # otherwise two hosts could listen on the same port and share the calls
    # Without a limit, a single connection can open thousands of handlers within seconds.
    ("grpc.max_concurrent_streams", 1000),
    # A caller that pings more often is disconnected with too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class _Running:
    """The parts of a host that is running."""

    server: grpc.aio.Server
    health: health.aio.HealthServicer
    calls: Calls
    port: int


class SkillHost:
    """Serves skills to Palaver servers from a program that runs its own event loop. `serve` is a complete program.

    A repeated call, with the same `call_id`, skill, arguments and assistant, gets the outcome of the first one: the
    function does not run again, and while it is running, the repeated call waits for it. The outcomes are lost when the
    process ends and are not shared between replicas. A skill with side effects must therefore store
    `Invocation.call_id` in the same transaction as its effect, and return the stored result if it finds the `call_id`.

    A remembered call runs to its end even if its caller leaves. With `remember=0`, an asynchronous function is
    canceled in this case. A synchronous function can't be canceled.

    Example:
        >>> async with SkillHost(tell_time, add_todo, listen="127.0.0.1:0") as host:
        ...     print(host.target)

    Args:
        *skills: Functions that are decorated with `skill`.
        listen: The address to listen on. Port 0 picks a free port; see `port`.
        tls_certificate: The path of a PEM file with the certificate chain for TLS. Without it, the host serves
            plaintext to anyone who can reach it, so use loopback or a service mesh.
        tls_key: The path of a PEM file with the private key of the certificate.
        tls_client_ca: The path of a PEM file with certificate authorities. Every caller must then present a certificate
            that one of them has issued. It requires TLS.
        token: The bearer token that every call must send, or several, any of which will do, such as the old one and the
            new one while it changes. Health checks need none. Without TLS, use it only on loopback or a service mesh.
        remember: How many outcomes of finished calls to remember, each of at most 256 KiB. 0: none.
        threads: How many synchronous functions may run at the same time. Further calls wait.
        grace_period: How many seconds running calls have to finish when the host stops.

    Raises:
        TypeError: One of the skills is not decorated with `skill`.
        ValueError: There is no skill, two skills have the same name, or an option is invalid.
    """

    def __init__(
        self,
        *skills: Callable[..., object],
        listen: str = DEFAULT_LISTEN,
        tls_certificate: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_client_ca: str | os.PathLike[str] | None = None,
        token: str | Sequence[str] | None = None,
        remember: int = DEFAULT_REMEMBER,
        threads: int = DEFAULT_THREADS,
        grace_period: float = DEFAULT_GRACE_PERIOD,
    ) -> None:
        self._definitions = _definitions_by_name(skills)
        if (tls_certificate is None) != (tls_key is None):
            raise ValueError("TLS requires both tls_certificate and tls_key")
        if tls_client_ca is not None and tls_certificate is None:
            raise ValueError("tls_client_ca requires tls_certificate and tls_key")
        if remember < 0 or grace_period < 0 or threads < 1:
            raise ValueError("remember and grace_period must be at least 0, and threads at least 1")
        self._listen = listen
        self._tls = None if tls_certificate is None or tls_key is None else (Path(tls_certificate), Path(tls_key))
        self._client_ca = None if tls_client_ca is None else Path(tls_client_ca)
        self._tokens = None if token is None else Tokens([token] if isinstance(token, str) else token)
        self._remember = remember
        self._threads = threads
        self._grace_period = grace_period
        self._running: _Running | None = None

    @property
    def port(self) -> int:
        """The port on which the host listens.

        Raises:
            RuntimeError: The host is not running.
        """
        if self._running is None:
            raise RuntimeError("the host is not running: use it in an `async with` block")
        return self._running.port

    @property
    def target(self) -> str:
        """The address on which the host listens: `listen` with the actual port.

        Raises:
            RuntimeError: The host is not running.
        """
        port = self.port
        host, _, number = self._listen.rpartition(":")
        return f"{host}:{port}" if number.isdigit() else self._listen

    async def __aenter__(self) -> Self:
        """Starts serving.

        Raises:
            OSError: The host can't listen on the address, or the certificate or the key can't be read.
            ValueError: The files do not contain a certificate and its key.
            RuntimeError: The host is already running.
        """
        if self._running is not None:
            raise RuntimeError("the host is already running")
        credentials = None if self._tls is None else _credentials(*self._tls, self._client_ca)
        server = grpc.aio.server(options=_OPTIONS)
        calls = Calls(self._remember, self._threads)
        service = _Service(self._definitions, calls, self._tokens)
        server.add_generic_rpc_handlers([service.handlers()])
        health_service = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        port = _bind(server, self._listen, credentials)
        await server.start()
        self._running = _Running(server, health_service, calls, port)
        for name in ("", _SERVICE):
            await health_service.set(name, health_pb2.HealthCheckResponse.SERVING)
        logger.info("serving %s on %s", ", ".join(self._definitions), self.target)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the host: health turns NOT_SERVING, new calls are refused, and running calls may finish."""
        if self._running is None:
            return
        running, self._running = self._running, None
        await running.health.enter_graceful_shutdown()
        stopping = asyncio.create_task(running.server.stop(self._grace_period + _FLUSH_TIMEOUT))
        try:
            await running.calls.close(self._grace_period)
            # Watchers of the health service never end their calls, and must not delay the stop by the grace period.
            await running.server.stop(_FLUSH_TIMEOUT)
        finally:
            await running.server.stop(None)
            await stopping


class _Service:
    """The implementation of `SkillHostService`."""

    def __init__(self, definitions: dict[str, Definition], calls: Calls, tokens: Tokens | None) -> None:
        self._definitions = definitions
        self._calls = calls
        self._tokens = tokens

    def handlers(self) -> grpc.GenericRpcHandler:
        """Returns the handlers for the gRPC server."""
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "ListSkills": _handler(skill_host_service_pb2.ListSkillsRequest, self._list_skills, self._tokens),
                "InvokeSkill": _handler(skill_host_service_pb2.InvokeSkillRequest, self._invoke_skill, self._tokens),
            },
        )

    async def _list_skills(
        self, _request: skill_host_service_pb2.ListSkillsRequest, _context: _Context
    ) -> skill_host_service_pb2.ListSkillsResponse:
        return skill_host_service_pb2.ListSkillsResponse(
            skills=[
                assistant_pb2.Skill(
                    name=definition.name,
                    description=definition.description,
                    parameters_json_schema=definition.parameters_json_schema,
                )
                for definition in self._definitions.values()
            ]
        )

    async def _invoke_skill(
        self, request: skill_host_service_pb2.InvokeSkillRequest, context: _Context
    ) -> skill_host_service_pb2.InvokeSkillResponse:
        definition = self._definitions.get(request.name)
        if definition is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the host has no skill with this name")
        invocation = Invocation(request.call_id, request.assistant_id, request.request_id)
        return await self._calls.call(definition, request.arguments_json, invocation)


def _handler(
    request_type: type[_Request], handle: Callable[[_Request, _Context], Awaitable[Message]], tokens: Tokens | None
) -> grpc.RpcMethodHandler[Any, Any]:
    """Returns a handler that checks the token, parses the request and calls a method."""

    async def parse_and_handle(data: bytes, context: _Context) -> Message:
        if tokens is not None and not tokens.permit(context.invocation_metadata()):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is missing or wrong")
        # gRPC itself would answer an unparsable request with UNKNOWN and the text of an exception.
        try:
            request = request_type.FromString(data)
        except DecodeError:
            request = None
        if request is None:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                "the request is not a valid message of its type; text must be valid UTF-8",
            )
        return await handle(request, context)

    return grpc.unary_unary_rpc_method_handler(
        parse_and_handle, request_deserializer=None, response_serializer=lambda message: message.SerializeToString()
    )


def _definitions_by_name(skills: tuple[Callable[..., object], ...]) -> dict[str, Definition]:
    """Returns the definitions of skills by name, and checks that the names are unique."""
    if not skills:
        raise ValueError("a host must have at least one skill")
    definitions: dict[str, Definition] = {}
    for function in skills:
        definition = definition_of(function)
        if definition.name in definitions:
            raise ValueError(
                f'two skills have the name "{definition.name}": give one of them another name with @skill(name=...)'
            )
        definitions[definition.name] = definition
    return definitions


def _bind(server: grpc.aio.Server, listen: str, credentials: grpc.ServerCredentials | None) -> int:
    """Binds the server to an address and returns its port."""
    try:
        if credentials is None:
            return server.add_insecure_port(listen)
        return server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise OSError(f"can't listen on {listen}; is the port taken?") from error


def _credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Returns the TLS credentials of a certificate and its key, and checks that they are valid."""
    pair = read_key_pair(certificate, key)
    if client_ca is None:
        return grpc.ssl_server_credentials([pair])
    authorities = client_ca.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" not in authorities:
        raise ValueError(f"{client_ca} contains no certificate in PEM")
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=True)
