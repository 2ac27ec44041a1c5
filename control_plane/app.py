"""The FastAPI application: composed here, built elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.security import APIKeyHeader, HTTPBearer
from fastapi_offline import FastAPIOffline

from control_plane.admission.rate_limits import open_limits
from control_plane.api import (
    admin,
    attributions,
    body,
    errors,
    generate,
    health,
    models,
    openapi,
    profile,
    stats,
)
from control_plane.api.metrics import metrics_router
from control_plane.api.openai import routers as openai_routers
from control_plane.auth.authenticator import open_authenticator
from control_plane.background import running
from control_plane.inference.client import ModelClient
from control_plane.middleware.authentication import AuthenticationMiddleware
from control_plane.middleware.body_limit import BodyLimitMiddleware
from control_plane.middleware.client_address import ClientAddressMiddleware
from control_plane.middleware.failure import FailureMiddleware
from control_plane.middleware.head import HeadMiddleware
from control_plane.middleware.rate_limit import RateLimitMiddleware
from control_plane.middleware.request_id import RequestIdMiddleware
from control_plane.middleware.response_count import ResponseCountMiddleware
from control_plane.models.processes import ModelProcesses
from control_plane.observability.alerts import Alerts
from control_plane.services import Lasting, open_services
from control_plane.settings import ConfigManager, ServingSettings
from control_plane.version import VERSION

_SECURITY: Mapping[str, Callable[..., Any]] = {
    "bearer_token": HTTPBearer(auto_error=False),
    "jwt": HTTPBearer(bearerFormat="JWT", auto_error=False),
    "api_key": APIKeyHeader(name="X-API-Key", auto_error=False),
}
# `*` would not count with credentials.
_EXPOSED = [
    "X-Request-Id",
    "WWW-Authenticate",
    "Retry-After",
    "retry-after-ms",
    body.HEADER,
    *(
        f"x-ratelimit-{what}-{of}"
        for what in ("limit", "remaining", "reset")
        for of in ("requests", "tokens")
    ),
]


def create_app(
    settings: ServingSettings,
    processes: ModelProcesses | None = None,
    client: ModelClient | None = None,
    *,
    lasting: Lasting | None = None,
    watches_alerts: bool = True,
    administration: admin.Administration | None = None,
) -> FastAPI:
    """Return an application in front of the Triton servers that the settings name.

    ``processes``: those of the embedded server's models. ``client``: whom to ask in place of the
    servers, such as a `FakeModelClient`. ``lasting``: of the application that this one replaces.
    ``watches_alerts``: of several workers, one does. ``administration``: what the routes below
    ``/admin`` ask; without it there are none.
    """

    has_limits = settings.rate_limiting.enabled or settings.auth.enabled  # a key may have a budget

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            services = await stack.enter_async_context(
                open_services(settings, processes, client, lasting)
            )
            app.state.services = services
            if has_limits:
                app.state.limits = limits = open_limits(settings)
                stack.push_async_callback(limits.close)
            if settings.auth.enabled:
                authenticator = open_authenticator(settings.auth)
                app.state.authenticator = await stack.enter_async_context(authenticator)
            if watches_alerts and (monitoring := settings.monitoring).enabled:
                alerts = Alerts(services.metrics, services.catalog, monitoring.alert_thresholds)
                checks = running(alerts.watch(monitoring.health_check_interval))
                app.state.alerts = await stack.enter_async_context(checks)
            yield

    # For the documentation: the middleware has asked already.
    security = [Depends(_SECURITY[settings.auth.auth_type])] if settings.auth.enabled else []
    # The pages /docs and /redoc with scripts of their own: they work without the internet.
    app = FastAPIOffline(
        title="Triad",
        version=VERSION,
        lifespan=lifespan,
        dependencies=security,
        responses=errors.documented_errors(401, 403, 431, 500),
    )
    # The last one is the outermost.
    app.add_middleware(BodyLimitMiddleware, limit=settings.max_body_size)
    if has_limits:
        app.add_middleware(RateLimitMiddleware)
    if settings.auth.enabled:
        app.add_middleware(AuthenticationMiddleware, public_paths=_public_paths(settings))
    app.add_middleware(FailureMiddleware)
    if settings.cors.allow_origins:  # before authentication, which a preflight request has none of
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors.allow_origins,
            allow_credentials=settings.cors.allow_credentials,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
            max_age=settings.cors.max_age,
        )
    app.add_middleware(ResponseCountMiddleware)
    app.add_middleware(RequestIdMiddleware)
    app.add_middleware(HeadMiddleware)
    if settings.trusted_proxies:
        app.add_middleware(ClientAddressMiddleware, trusted=settings.trusted_proxies)
    errors.install(app)
    openapi.install(app)
    for resource in (generate, attributions, health, stats, models):
        app.include_router(resource.router)
    for router in openai_routers:
        app.include_router(router)
    if administration is not None:
        app.state.administration = administration
        app.include_router(admin.router)
    if settings.profiling:
        app.include_router(profile.router)
    if settings.monitoring.enabled:
        app.include_router(metrics_router(settings.monitoring.metrics_endpoint))
    return app


def _public_paths(settings: ServingSettings) -> list[str]:
    if settings.auth.public_paths is not None:
        return settings.auth.public_paths
    return [*health.PATHS, settings.monitoring.metrics_endpoint]


def app_from_environment() -> FastAPI:
    """Create the application for uvicorn's reloader, which builds it anew in a process of its
    own."""
    return create_app(ConfigManager().serving)
