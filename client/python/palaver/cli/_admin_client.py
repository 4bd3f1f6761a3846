"""The calls of operators: those of `AdminService`, and the health check.

This wrapper is the command's own. Programs use the generated stub, `AdminServiceStub` of
`palaver.v1.admin_service_pb2_grpc`.
"""

from __future__ import annotations

from collections.abc import Iterator

from grpc_health.v1 import health_pb2, health_pb2_grpc

import palaver
from palaver.cli._options import Settings
from palaver.v1 import admin_service_pb2 as pb
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub

SERVICE = "palaver.v1.AssistantService"

_PAGE_SIZE = 1000


class AdminClient:
    """Calls the server on the connection of a client, with its token and deadline, and raises the client's errors."""

    def __init__(self, client: palaver.Client, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._stub = AdminServiceStub(client._channel)
        self._health = health_pb2_grpc.HealthStub(client._channel)

    def list_assistants(self, limit: int | None = None) -> Iterator[pb.ListAssistantsResponse]:
        """Yields the pages of the collection's assistants, which end at a limit if there is one."""
        request = pb.ListAssistantsRequest(**self._settings.storage)
        left = limit
        while left is None or left > 0:
            request.page_size = _PAGE_SIZE if left is None else min(left, _PAGE_SIZE)
            page = self._client._call(self._stub.ListAssistants, request, self._settings.timeout)
            yield page
            request.page_token = page.next_page_token
            if not request.page_token:
                return
            left = None if left is None else left - len(page.assistants)

    def list_running_turns(self, limit: int) -> pb.ListRunningTurnsResponse:
        """Returns the oldest turns that run in one process of the server."""
        request = pb.ListRunningTurnsRequest(limit=limit)
        return self._client._call(self._stub.ListRunningTurns, request, self._settings.timeout)

    def get_server_settings(self) -> pb.GetServerSettingsResponse:
        """Returns the settings in effect in one process of the server."""
        return self._client._call(self._stub.GetServerSettings, pb.GetServerSettingsRequest(), self._settings.timeout)

    def check_health(self, timeout: float) -> str:
        """Returns the status of the service, such as SERVING, as the standard health service reports it."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        check = self._health.Check  # type: ignore[attr-defined]  # its types lack the methods
        response = self._client._call(check, request, self._settings.timeout or timeout)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
