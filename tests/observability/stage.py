"""A server process that exports everything, between an endpoint, tables, a skill host and two callers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tests.support.azurite import Account
from tests.support.callers import CallersFile
from tests.support.calls import create_assistant, query
from tests.support.collector import Collector, collector
from tests.support.endpoint import Endpoint
from tests.support.log_file import LogFile
from tests.support.metrics_page import Page, scrape
from tests.support.ports import free_port
from tests.support.server_process import ServerProcess, server_process
from tests.support.skill_host import SkillHost, content
from tests.support.table_proxy import TableProxy

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"

TURNS_PER_MINUTE = 3


@dataclass
class Stage:
    """Everything around the server, and what the server has said."""

    server: ServerProcess
    endpoint: Endpoint
    tables: TableProxy
    host: SkillHost
    collector: Collector
    callers: CallersFile
    metrics_address: str
    log: LogFile

    async def scrape(self) -> Page:
        """Reads the page of metrics."""
        return await scrape(self.metrics_address)

    async def post(self, message: str = "Hello", caller: str = "app", **fields: Any) -> grpc.StatusCode:
        """Posts a query as a caller, whose services trace it, and returns the status of the call."""
        metadata = (*self.callers.as_caller(caller), ("traceparent", TRACEPARENT), ("baggage", "user=4711"))
        try:
            await self.server.stub.PostUserQueryUnary(query(message, **fields), metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@asynccontextmanager
async def stage(folder: Path, account: Account, **variables: str) -> AsyncIterator[Stage]:
    """Runs everything until the end of the block. The store has the assistant `a`."""
    callers = CallersFile(folder / "callers.toml")
    callers.write(app={}, flood={"turns_per_minute": TURNS_PER_MINUTE})
    metrics_address, log = f"127.0.0.1:{free_port()}", LogFile(folder / "log.jsonl")
    async with (
        Endpoint() as endpoint,
        TableProxy(account) as tables,
        SkillHost(lookup=lambda _request: content("found")) as host,
        collector() as collected,
    ):
        chosen = {
            "AzureWebJobsStorage": tables.connection_string,
            "PALAVER_CALLERS": str(callers.path),
            "PALAVER_LOG_FORMAT": "json",
            "PALAVER_METRICS_LISTEN": metrics_address,
            "PALAVER_SKILL_HOSTS": host.target,
            **collected.variables(),
            **variables,
        }
        with log.path.open("wb") as stderr:
            async with server_process(folder, endpoint.url, stderr=stderr, metadata=(), **chosen) as server:
                running = Stage(server, endpoint, tables, host, collected, callers, metrics_address, log)
                server.stub.CreateAssistant = _as_caller(server.stub.CreateAssistant, callers)
                await create_assistant(server)
                yield running


def _as_caller(method: Any, callers: CallersFile) -> Any:
    def call(request: Any) -> Any:
        return method(request, metadata=callers.as_caller("app"))

    return call
