"""`palaver.v1.AdminService` on top of what the engine shows to operators."""

from __future__ import annotations

import os
import socket

from palaver.v1 import admin_service_pb2 as pb
from palaver_server.api import admin_responses, requests
from palaver_server.api.page_tokens import page_token
from palaver_server.api.responses import assistant
from palaver_server.api.service import Call
from palaver_server.engine.administration import Administration

SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"]


class AdminApi:
    """The methods of the service. They raise the errors of the domain, which `statuses` maps to codes."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration
        self._process = pb.ServerProcess(host_name=socket.gethostname(), process_id=os.getpid())

    async def list_assistants(self, request: pb.ListAssistantsRequest, call: Call) -> pb.ListAssistantsResponse:
        """Serves `ListAssistants`."""
        page = await self._administration.list_assistants(call.caller, *requests.list_assistants(request))
        return pb.ListAssistantsResponse(
            assistants=map(assistant, page.assistants),
            damaged_ids=page.damaged_ids,
            next_page_token=page_token(request, page.next_position.encode()) if page.next_position else "",
        )

    async def list_running_turns(self, request: pb.ListRunningTurnsRequest, call: Call) -> pb.ListRunningTurnsResponse:
        """Serves `ListRunningTurns`."""
        limit = requests.list_running_turns(request)
        turns = self._administration.running_turns(call.caller)
        return pb.ListRunningTurnsResponse(
            turns=map(admin_responses.running_turn, turns[:limit]), total_turns=len(turns), process=self._process
        )

    async def get_server_settings(
        self, _request: pb.GetServerSettingsRequest, call: Call
    ) -> pb.GetServerSettingsResponse:
        """Serves `GetServerSettings`."""
        settings = self._administration.settings(call.caller)
        return pb.GetServerSettingsResponse(
            settings=map(admin_responses.setting, settings.settings),
            storage_connections=map(admin_responses.connection, settings.storage_connections),
            ai_connections=map(admin_responses.connection, settings.ai_connections),
            process=self._process,
        )
