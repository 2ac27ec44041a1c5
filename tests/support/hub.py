"""A small server that speaks the protocol of a model hub, for `HF_ENDPOINT`.

Of https://huggingface.co/docs/hub/api it has what loading a model takes: files with their ETag and
the commit, and the list of a repository's files.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0" * 39 + "1"


def _handler(repository: str, folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith(f"/api/models/{repository}/tree/"):
                return self._json([self._entry(file) for file in sorted(folder.iterdir())])
            if path.startswith(f"/api/models/{repository}"):
                siblings = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                return self._json({"id": repository, "sha": COMMIT, "siblings": siblings})
            self._file(path)

        do_HEAD = do_GET

        def _entry(self, file: Path) -> dict[str, object]:
            size = file.stat().st_size
            return {"type": "file", "path": file.name, "size": size, "oid": _etag(file)}

        def _file(self, path: str) -> None:
            prefix = f"/{repository}/resolve/"
            name = path.removeprefix(prefix).partition("/")[2]
            file = folder / name
            if not path.startswith(prefix):
                return self._send(404, b"", {"X-Error-Code": "RepoNotFound"})
            if not name or not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT}
            self._send(200, file.read_bytes(), headers)

        def _json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def hub(repository: str, folder: Path) -> Iterator[str]:
    """The address of a hub that has one model: ``repository``, with the files of ``folder``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repository, folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
