"""The FastAPI application: composed here, built elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from control_plane.api import attributions, errors, generate, health, models, profile, stats
from control_plane.api.metrics import metrics_router
from control_plane.api.openai import routers as openai_routers
from control_plane.middleware.body_limit import BodyLimitMiddleware
from control_plane.middleware.request_id import RequestIdMiddleware
from control_plane.middleware.response_count import ResponseCountMiddleware
from control_plane.services import open_services
from control_plane.settings import ConfigManager, ServingSettings
from control_plane.version import VERSION


def create_app(settings: ServingSettings) -> FastAPI:
    """An application for the Triton server at ``triton.endpoints[0]``."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_services(settings) as services:
            app.state.services = services
            yield

    app = FastAPI(title="Triad", version=VERSION, lifespan=lifespan)
    app.add_middleware(BodyLimitMiddleware, limit=settings.max_body_size)
    app.add_middleware(ResponseCountMiddleware)
    app.add_middleware(RequestIdMiddleware)
    errors.install(app)
    for resource in (generate, attributions, health, stats, models):
        app.include_router(resource.router)
    for router in openai_routers:
        app.include_router(router)
    if settings.debug:
        app.include_router(profile.router)
    if settings.monitoring.enabled:
        app.include_router(metrics_router(settings.monitoring.metrics_endpoint))
    return app


def app_from_environment() -> FastAPI:
    """For uvicorn's reloader, which builds the application anew in a process of its own."""
    return create_app(ConfigManager().serving)
