"""What `create_app` gives the routers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from control_plane.services import Services


async def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]
