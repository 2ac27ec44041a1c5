"""``python -m control_plane.workers.worker``: one of several processes that serve HTTP.

It gets its `Job` through its standard input, which stays open as long as the parent process lives:
at its end, however that comes about, the worker ends as well.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import threading

from backends.logs import BoundedFormatter
from control_plane.app import create_app
from control_plane.http.server import HttpServer, server_config
from control_plane.logs import set_up_logging
from control_plane.models.processes import ModelProcesses, child_named
from control_plane.observability.metrics import SHARED_FOLDER
from control_plane.workers.job import Job


def main() -> None:
    parent = os.getppid()
    job = Job.read(sys.stdin.buffer)
    handler = logging.StreamHandler()
    handler.setFormatter(BoundedFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    set_up_logging(job.settings, handler)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    triton = child_named(parent, "tritonserver")
    app = create_app(
        job.settings,
        ModelProcesses(triton) if job.has_triton else None,
        started=job.started,
        watches_alerts=job.watches_alerts,
    )
    server = HttpServer(server_config(app, job.settings), job.settings)
    server.run(sockets=[socket.socket(fileno=job.socket)])


def _end_with_parent() -> None:
    # Not through `sys.stdin`, whose lock a thread that waits would keep when the process ends.
    os.read(sys.stdin.fileno(), 1)
    shutil.rmtree(os.environ[SHARED_FOLDER], ignore_errors=True)  # which the parent cannot any more
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
