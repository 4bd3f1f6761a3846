"""The wiring of stores, models, skills, engine and transport. Only this module knows all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from palaver_server import connections, health, opening
from palaver_server.api.admin import AdminApi
from palaver_server.api.service import AssistantApi
from palaver_server.banner import log_start
from palaver_server.domain.conversation import DEFAULT_STORAGE_CONNECTION
from palaver_server.domain.ports import ModelConnections, Store
from palaver_server.domain.stages import Observer, Observers
from palaver_server.effective_settings import effective_settings
from palaver_server.engine.access import AccessControl
from palaver_server.engine.administration import Administration
from palaver_server.engine.chat import ChatEngine
from palaver_server.exposure import check_exposure
from palaver_server.health import HealthMonitor
from palaver_server.llm.connections import NamedModels
from palaver_server.reloading import Reloading
from palaver_server.settings import Settings, SettingsError
from palaver_server.telemetry.stores import ObservedStore
from palaver_server.telemetry_setup import chosen_telemetry
from palaver_server.transports.grpc import Listener, ListenError, listener
from palaver_server.transports.handlers import admin_service, assistant_service

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


@dataclass(frozen=True, slots=True)
class Application:
    """A running server."""

    engine: ChatEngine
    listener: Listener
    _reloading: Reloading
    _monitor: HealthMonitor

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self.listener.port

    @property
    def is_ready(self) -> bool:
        """True while the health service reports SERVING for the API."""
        return self.listener.health.is_serving

    async def reload(self) -> None:
        """Reads the callers' file and the certificates now. A version that is invalid is logged and not used."""
        await self._reloading.reload()

    def reload_soon(self) -> None:
        """Does the same in the background."""
        self._reloading.reload_soon()

    async def stop(self, grace: float) -> None:
        """Stops gracefully: reports NOT_SERVING, and gives the running turns `grace` seconds to finish."""
        await self.listener.health.drain()
        await self._monitor.stop()
        await self.engine.drain(grace)
        await self.listener.stop()


@asynccontextmanager
async def application(
    settings: Settings,
    environment: Mapping[str, str],
    *,
    observers: tuple[Observer, ...] = (),
    shares_port: bool = False,
    registry: CollectorRegistry | None = None,
    logs_start: bool = False,
) -> AsyncIterator[Application]:
    """Starts a server. Leaving the block stops it immediately. Raises `SettingsError`.

    A registry gets the metrics. With `logs_start`, the log says what the server has found.
    """
    check_exposure(settings)
    async with AsyncExitStack() as stack:
        storage = connections.storage_connections(settings, environment)
        ai_connections, fallback = await opening.open_ai_connections(settings, environment, stack)
        telemetry = await stack.enter_async_context(chosen_telemetry(settings, environment, ai_connections, registry))
        observer = Observers((*observers, telemetry.observer()))
        stores = await opening.open_stores(storage, settings.store_timeouts(), observer, stack)
        observed = {name: ObservedStore(store, telemetry.store_calls(name)) for name, store in stores.items()}
        models = NamedModels(
            {each.name: opening.open_model(each, stack, telemetry.trace_headers) for each in ai_connections},
            fallback.name if fallback else None,
        )
        hosts = await opening.open_hosts(settings, environment, telemetry, stack)
        skills = await opening.open_skills(hosts, stack)
        engine = ChatEngine(observed, models, skills, settings.engine_options(), observer)
        administration = Administration(engine, effective_settings(settings, storage, stores, ai_connections, fallback))
        reloading = stack.enter_context(closing(Reloading()))
        tls = opening.open_tls(settings, reloading)
        interceptors = (*telemetry.interceptors, *await opening.open_callers(settings, stack, reloading))
        monitor = HealthMonitor(_dependencies(settings, stores, models))
        await monitor.look()
        stack.push_async_callback(monitor.stop)
        try:
            listening = await stack.enter_async_context(
                listener(
                    [assistant_service(AssistantApi(AccessControl(engine))), admin_service(AdminApi(administration))],
                    settings.listen,
                    credentials=tls.credentials if tls else None,
                    interceptors=interceptors,
                    failed=telemetry.refusals.refused,
                    is_ready=monitor.is_ready,
                    serves_reflection=settings.reflection,
                    shares_port=shares_port,
                )
            )
        except ListenError as error:
            raise SettingsError(f"PALAVER_LISTEN: {error}") from error
        monitor.start(listening.health.report)
        telemetry.watch_readiness(lambda: listening.health.is_serving)
        if logs_start:
            log_start(settings, storage, stores, ai_connections, fallback, hosts)
        yield Application(engine, listening, reloading, monitor)


def _dependencies(
    settings: Settings, stores: Mapping[str, Store], models: ModelConnections
) -> Iterator[health.Dependency]:
    """Yields what turns depend on. Only the default connections affect all callers."""
    for name, store in stores.items():
        is_default = name == DEFAULT_STORAGE_CONNECTION
        yield health.store_dependency(name, store, settings.store_timeout, is_required=is_default)
    if settings.health_requires_model:
        yield health.model_dependency(*models.resolve(""))
