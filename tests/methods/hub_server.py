"""A hub of one's own: serves model folders the way huggingface_hub asks for them."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """`models` maps owner/name to a folder; `requests` are the paths asked for."""

    def __init__(self, models: dict[str, Path]) -> None:
        self.models = models
        self.requests: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        self.requests.append(path)
        path = path.partition("?")[0]
        if path == "/":
            return 200, {}, b"hub"
        if path.startswith("/api/models/"):
            folder = self.models.get("/".join(path.split("/")[3:5]))
            return self._info(path, folder) if folder else self._missing("RepoNotFound")
        owner, name, _, _, file = path.removeprefix("/").split("/", 4)
        source = self.models[f"{owner}/{name}"] / file
        if not source.is_file():
            return self._missing("EntryNotFound")
        content = source.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return 200, headers, content

    def _info(self, path: str, folder: Path) -> tuple[int, dict[str, str], bytes]:
        siblings = [{"rfilename": f.name, "size": f.stat().st_size} for f in sorted(folder.iterdir())]
        body = {"id": "/".join(path.split("/")[3:5]), "sha": COMMIT, "siblings": siblings, "private": False}
        return 200, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def _missing(self, code: str) -> tuple[int, dict[str, str], bytes]:
        return 404, {"X-Error-Code": code, "X-Error-Message": "not there"}, b"{}"


@contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """The address of the running hub."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _send(self, with_body: bool) -> None:
            status, headers, body = hub.answer(self.path)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self._send(False)

        def do_GET(self) -> None:
            self._send(True)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
