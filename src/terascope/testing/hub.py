"""A small Hugging Face Hub on this machine: enough of its HTTP for `huggingface_hub` to fetch from."""

import hashlib
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Serves one repository at one commit; use it as a context manager and set HF_ENDPOINT to its `url`.

    `files` are the contents by path. Any other repository is not found, any other revision but `main` neither.
    """

    def __init__(self, repository: str, commit: str, files: Mapping[str, bytes]) -> None:
        self.repository = repository
        self.commit = commit
        self.files = files
        self.gated = False
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    served: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(send_body=True)

    def do_HEAD(self) -> None:
        self._answer(send_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads its log."""

    def _answer(self, *, send_body: bool) -> None:
        hub = self.served
        path = unquote(urlsplit(self.path).path)
        api, raw = f"/api/models/{hub.repository}", f"/{hub.repository}/resolve/"
        revision = path.removeprefix(f"{api}/revision/").removeprefix(f"{api}/tree/").removeprefix(raw).split("/")[0]
        if not path.startswith((f"{api}/", raw)):
            self._refuse("RepoNotFound", 404)
        elif hub.gated:
            self._refuse("GatedRepo", 403)
        elif revision not in ("main", hub.commit):
            self._refuse("RevisionNotFound", 404)
        elif path.startswith(f"{api}/revision/"):
            self._send_json({"id": hub.repository, "sha": hub.commit, "siblings": []}, send_body)
        elif path.startswith(f"{api}/tree/"):
            self._send_json([_entry(name, content) for name, content in hub.files.items()], send_body)
        else:
            self._send_file(path.removeprefix(f"{raw}{revision}/"), send_body)

    def _refuse(self, code: str, status: int) -> None:
        self._send(b"{}", status, {"X-Error-Code": code, "X-Error-Message": code}, send_body=self.command == "GET")

    def _send_json(self, value: object, send_body: bool) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json"}, send_body=send_body)

    def _send_file(self, name: str, send_body: bool) -> None:
        content = self.served.files.get(name)
        if content is None:
            self._refuse("EntryNotFound", 404)
            return
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._send(content, 200, {"ETag": etag, "X-Repo-Commit": self.served.commit}, send_body=send_body)

    def _send(self, body: bytes, status: int, headers: Mapping[str, str], *, send_body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if send_body:
            self.wfile.write(body)


def _entry(name: str, content: bytes) -> dict[str, Any]:
    oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return {"type": "file", "path": name, "size": len(content), "oid": oid}
