"""A real gRPC server on loopback whose answers a test scripts, and which records its calls.

Every method of `AssistantService` and `AdminService` answers from its own list of answers: the first call gets the
first one, and so on; the last one serves all further calls. A step of an answer is one of

* a message of the contract, or bytes, which are sent unchanged;
* a `Failure`, which ends the call with that status;
* a `threading.Event`, for which the call waits;
* `HANG`, for which the call waits until its caller has left.

The answer of a unary call is a single step or a list that ends with one; the answer of `PostUserQuery` is a list.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2
from grpc_status import rpc_status

from palaver.v1 import admin_service_pb2, assistant_service_pb2

if TYPE_CHECKING:
    from typing_extensions import Self

_SERVICES = (
    assistant_service_pb2.DESCRIPTOR.services_by_name["AssistantService"],
    admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"],
)

HANG = object()


@dataclass(frozen=True)
class Failure:
    """A status that ends a call, with its details."""

    status: grpc.StatusCode
    message: str
    details: tuple[Message, ...] = ()

    def end(self, context: grpc.ServicerContext) -> None:
        rich = status_pb2.Status(code=self.status.value[0], message=self.message)
        for detail in self.details:
            packed = AnyMessage()
            packed.Pack(detail)
            rich.details.append(packed)
        context.abort_with_status(rpc_status.to_status(rich))


@dataclass
class Call:
    """A call to the server."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    time_remaining: float | None
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the call is over for the server, however it ended."""
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when the call is over before the server has ended it: the caller left or its deadline passed."""


class ScriptedServer:
    """The server. `target` is where it listens."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.calls: list[Call] = []
        self._called = threading.Condition()
        self._answers: dict[str, list[Any]] = {}
        self._pool = ThreadPoolExecutor(max_workers=16)
        self._server = grpc.server(
            self._pool,
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ],
        )
        for service in _SERVICES:
            handlers = {method.name: self._handler(method) for method in service.methods}
            self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.target = f"127.0.0.1:{port}"
        self._server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(grace=0).wait()
        self._pool.shutdown()

    def script(self, method: str, *answers: Any) -> None:
        """Sets the answers of a method."""
        self._answers[method] = list(answers)

    def requests(self, method: str) -> list[Any]:
        """Returns the requests of a method so far."""
        return [call.request for call in self.calls if call.method == method]

    def wait_for_calls(self, count: int) -> list[Call]:
        """Waits for a number of calls and returns all calls."""
        with self._called:
            assert self._called.wait_for(lambda: len(self.calls) >= count, timeout=30), f"fewer than {count} calls"
        return self.calls

    def _handler(self, method: Any) -> grpc.RpcMethodHandler[Any, Any]:
        def answer(request: Message, context: grpc.ServicerContext) -> Iterator[Message | bytes]:
            call = self._record(method.name, request, context)
            yield from self._play(self._next_answer(method.name), context)
            if context.is_active():
                call.ended.set()

        def answer_unary(request: Message, context: grpc.ServicerContext) -> Message | bytes:
            return next(answer(request, context))

        deserialize = GetMessageClass(method.input_type).FromString
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(answer, deserialize, _serialize)
        return grpc.unary_unary_rpc_method_handler(answer_unary, deserialize, _serialize)

    def _record(self, method: str, request: Message, context: grpc.ServicerContext) -> Call:
        call = Call(method, request, dict(context.invocation_metadata()), context.time_remaining())

        def over() -> None:
            if not call.ended.is_set():
                call.abandoned.set()
            call.ended.set()

        if not context.add_callback(over):
            over()
        with self._called:
            self.calls.append(call)
            self._called.notify_all()
        return call

    def _next_answer(self, method: str) -> Any:
        answers = self._answers[method]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _play(self, answer: Any, context: grpc.ServicerContext) -> Iterator[Message | bytes]:
        for step in answer if isinstance(answer, Iterable) and not isinstance(answer, bytes) else [answer]:
            if isinstance(step, Failure):
                step.end(context)
            elif isinstance(step, threading.Event):
                _wait(step, context)
            elif step is HANG:
                _wait(threading.Event(), context)
            else:
                yield step


def _wait(event: threading.Event, context: grpc.ServicerContext) -> None:
    """Waits for the event or for the end of the call, whichever comes first."""
    either = threading.Event()
    if context.add_callback(either.set):
        threading.Thread(target=lambda: (event.wait(30), either.set()), daemon=True).start()
        either.wait(30)


def _serialize(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
