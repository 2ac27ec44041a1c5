"""``python -m control_plane.workers.worker``: one of several processes that serve HTTP.

It gets its `Job` through the connection whose file descriptor is its argument, and which stays open
as long as the parent process lives: at its end, however that comes about, the worker ends as well.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from backends.logs import BoundedFormatter
from control_plane.app import create_app
from control_plane.http.server import HttpServer, server_config
from control_plane.logs import set_log_level, set_up_logging
from control_plane.models.processes import ModelProcesses, child_named
from control_plane.observability.metrics import SHARED_FOLDER
from control_plane.reloading.gateway import Gateway
from control_plane.services import Lasting
from control_plane.settings import ServingSettings
from control_plane.workers.heartbeat import Heartbeat
from control_plane.workers.link import ParentLink
from control_plane.workers.messages import Job


def main(descriptor: int) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which is for the parent
    faulthandler.register(signal.SIGUSR2)  # with which the parent asks where one hangs
    connection: Connection[Any, Any] = Connection(descriptor)
    triton = child_named(os.getppid(), "tritonserver")
    job: Job = connection.recv()
    handler = logging.StreamHandler()
    handler.setFormatter(BoundedFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    set_up_logging(job.settings, handler)
    link = ParentLink(connection)
    create = partial(
        create_app,
        processes=ModelProcesses(triton) if job.has_triton else None,
        lasting=Lasting(started=job.started),
        watches_alerts=job.watches_alerts,
        administration=link,
    )
    gateway = Gateway(job.settings, create)
    heartbeat = Heartbeat(Path(os.environ[SHARED_FOLDER]))

    def started() -> None:
        heartbeat.begin()
        link.attach(gateway)

    server = HttpServer(server_config(gateway, job.settings), job.settings, started)

    def change(settings: ServingSettings) -> None:
        set_log_level(settings)
        server.change(settings)

    gateway.on_change = change
    server.run(sockets=[socket.socket(fileno=job.socket)])


if __name__ == "__main__":
    main(int(sys.argv[1]))
