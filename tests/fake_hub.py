"""As much of the Hugging Face Hub as one model repository needs, on 127.0.0.1, for the real client to talk to."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class FakeHub:
    """Repositories by name, each with its files; `requests` is what the client asked for."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, name: str) -> str:
        return hashlib.sha1(repr(sorted(self.repositories[name].items())).encode()).hexdigest()


@contextmanager
def hub() -> Iterator[FakeHub]:
    state = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.resolve(body=False)

        def do_GET(self) -> None:
            self.resolve(body=True)

        def resolve(self, body: bool) -> None:
            state.requests.append(f"{self.command} {self.path}")
            name, _, rest = self.path.lstrip("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            if name not in state.repositories:
                return self.answer(
                    404, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
                )
            commit = state.commit(name)
            if revision not in ("main", commit):
                return self.answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
            if file not in state.repositories[name]:
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            data = state.repositories[name][file]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
            self.answer(200, data, headers, body)

        def do_POST(self) -> None:
            state.requests.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = self.path.strip("/").split("/")
            if parts == ["api", "repos", "create"]:
                request = json.loads(body)
                name = (
                    f"{request['organization']}/{request['name']}" if request.get("organization") else request["name"]
                )
                status = 409 if name in state.repositories else 200
                state.repositories.setdefault(name, {})
                return self.reply({"url": f"{state.url}/{name}", "name": name, "id": name}, status)
            if parts[1] == "validate-yaml":
                return self.reply({"errors": [], "warnings": []})
            name = "/".join(parts[2:4])
            if parts[4] == "preupload":
                files = json.loads(body)["files"]
                answers = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                return self.reply({"files": answers})
            assert parts[4] == "commit", self.path
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    state.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = state.commit(name)
            self.reply({"success": True, "commitOid": commit, "commitUrl": f"{state.url}/{name}/commit/{commit}"})

        def reply(self, content: Any, status: int = 200) -> None:
            self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def answer(self, status: int, data: bytes, headers: dict[str, str], body: bool = True) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
