"""A worker's end of the connection to its parent."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from control_plane.api.admin import ReloadResponse, SettingsResponse
from control_plane.errors import SettingsRefused
from control_plane.observability.metrics import SHARED_FOLDER
from control_plane.reloading.gateway import Gateway
from control_plane.settings import SettingsError
from control_plane.workers.messages import Abandon, Answer, Commit, Prepare, Prepared, Question


class ParentLink:
    """The connection to the parent, which ends the worker when it ends, however that comes about.
    Implements `Administration`: the parent changes the settings of all workers."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        """Begin to read. What comes is dealt with once there is a gateway: see `attach`."""
        self._connection = connection
        self._gateway: Gateway
        self._loop: asyncio.AbstractEventLoop
        self._attached = threading.Event()
        self._asking = asyncio.Lock()
        self._answer: asyncio.Future[Answer]
        self._handling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._read, name="parent", daemon=True).start()

    def attach(self, gateway: Gateway) -> None:
        """Deal with messages in the event loop that runs."""
        self._gateway, self._loop = gateway, asyncio.get_running_loop()
        self._attached.set()

    def _read(self) -> None:
        try:
            while True:
                message = self._connection.recv()
                self._attached.wait()
                self._loop.call_soon_threadsafe(self._received, message)
        except (EOFError, OSError):
            pass
        # The parent cannot any more.
        shutil.rmtree(os.environ[SHARED_FOLDER], ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)

    def _received(self, message: object) -> None:
        if isinstance(message, Answer):
            if not self._answer.done():
                self._answer.set_result(message)
            return
        task = asyncio.ensure_future(self._handle(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, message: object) -> None:
        async with self._handling:  # one after the other, as they came
            if isinstance(message, Prepare):
                problem = None
                try:
                    await self._gateway.prepare(message.settings)
                except SettingsError as error:
                    problem = str(error)
                self._connection.send(Prepared(message.number, problem))
            elif isinstance(message, Commit):
                self._gateway.commit()
            elif isinstance(message, Abandon):
                await self._gateway.abandon()

    async def _ask(self, question: Question) -> Answer:
        async with self._asking:
            self._answer = self._loop.create_future()
            self._connection.send(question)
            answer = await asyncio.shield(self._answer)
        if answer.problem:
            raise SettingsRefused(answer.problem)
        return answer

    async def reload(self) -> ReloadResponse:
        answer = await self._ask(Question("reload"))
        assert isinstance(answer.value, ReloadResponse)
        return answer.value

    async def settings(self) -> SettingsResponse:
        answer = await self._ask(Question("settings"))
        assert isinstance(answer.value, SettingsResponse)
        return answer.value
