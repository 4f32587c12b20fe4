"""A hub in the test process: it lists models, answers HEAD and Range, and sends large files from a second address (the "CDN"), with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors", ".bin")


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(name: str, data: bytes) -> str:
    return hashlib.sha256(data).hexdigest() if name.endswith(LARGE) else git_hash(data)


@dataclass
class Request:
    """What one request was and how much of a file it was given."""

    server: str
    method: str
    path: str
    token: str
    range: str
    sent: int = 0


@dataclass
class Hub:
    """Models and faults; ``models[id] = {commit: {file name: bytes}}``, ``refs[id] = {branch: commit}``."""

    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    refs: dict[str, dict[str, str]] = field(default_factory=dict)
    endpoint: str = ""
    cdn: str = ""
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)  # file -> after how many bytes each of its next answers is cut
    other: dict[str, bytes] = field(default_factory=dict)  # file -> what is sent in its place
    status: dict[str, list[int]] = field(default_factory=dict)  # file, or "" for the listing -> status of its next answers
    headers: dict[str, str] = field(default_factory=dict)  # of each refusal
    listing: bytes | None = None
    ranges: bool = True
    hashes: bool = True
    claims: dict[str, str] = field(default_factory=dict)  # file -> the hash that the listing claims

    def add(self, model: str, files: dict[str, bytes], branch: str = "main") -> str:
        """A new commit of a model; returns its 40 digits."""
        commit = hashlib.sha1(repr((model, branch, sorted(files.items()))).encode()).hexdigest()
        self.models.setdefault(model, {})[commit] = files
        self.refs.setdefault(model, {})[branch] = commit
        return commit

    def commit(self, model: str, revision: str) -> str | None:
        known = self.models.get(model, {})
        return self.refs.get(model, {}).get(revision) or (revision if revision in known else None)

    def sent(self, name: str) -> int:
        """The bytes of a file that left both servers."""
        return sum(r.sent for r in self.requests if r.path.endswith("/" + name))


def handler(hub: Hub, server: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            self.seen = Request(server, self.command, path, self.headers.get("Authorization", ""), self.headers.get("Range", ""))
            hub.requests.append(self.seen)
            if path.startswith("/api/models/"):
                return self.list(path.removeprefix("/api/models/"))
            model, _, rest = path.removeprefix("/cdn").strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            commit = hub.commit(model, revision)
            data = hub.models.get(model, {}).get(commit or "", {}).get(name)
            if hub.status.get(name):
                return self.refuse(hub.status[name].pop(0))
            if data is None:
                return self.refuse(404)
            common = {"X-Repo-Commit": str(commit)}
            if server == "hub" and name.endswith(LARGE):
                linked = {"X-Linked-Etag": f'"{etag(name, data)}"', "X-Linked-Size": str(len(data)), "Location": f"{hub.cdn}/cdn{path}"}
                return self.answer(302, b"", {**common, **linked})
            return self.file(name, data, {**common, "ETag": f'"{etag(name, data)}"'})

        def list(self, path: str) -> None:
            model, _, revision = path.partition("/revision/")
            if hub.status.get(""):
                return self.refuse(hub.status[""].pop(0))
            if model not in hub.models:
                return self.refuse(404, {"X-Error-Code": "RepoNotFound"})
            commit = hub.commit(model, revision or "main")
            if commit is None:
                return self.refuse(404, {"X-Error-Code": "RevisionNotFound"})
            if hub.listing is not None:
                return self.answer(200, hub.listing, {"Content-Type": "application/json"})
            files = []
            for name, data in hub.models[model][commit].items():
                entry: dict[str, Any] = {"rfilename": name}
                if hub.hashes:
                    entry |= {"size": len(data), "blobId": hub.claims.get(name, git_hash(data))}
                    if name.endswith(LARGE):
                        entry["lfs"] = {"size": len(data), "sha256": hub.claims.get(name, etag(name, data)), "pointerSize": 130}
                files.append(entry)
            body = json.dumps({"id": model, "sha": commit, "siblings": files, "private": False, "tags": [], "downloads": 0, "likes": 0}).encode()
            return self.answer(200, body, {"Content-Type": "application/json"})

        def file(self, name: str, data: bytes, headers: dict[str, str]) -> None:
            data = hub.other.get(name, data)
            start = int(self.seen.range.removeprefix("bytes=").partition("-")[0] or 0) if hub.ranges else 0
            if start:
                if start >= len(data):
                    return self.refuse(416)
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206 if start else 200, data[start:], headers, (hub.cuts.get(name) or [None]).pop(0) if self.command == "GET" else None)

        def refuse(self, code: int, headers: dict[str, str] | None = None) -> None:
            self.answer(code, b"{}", {**hub.headers, **(headers or {})})

        def answer(self, code: int, body: bytes, headers: dict[str, str], cut: int | None = None) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                part = body if cut is None else body[:cut]
                self.wfile.write(part)
                self.seen.sent = len(part)
                if cut is not None:
                    self.wfile.flush()
                    self.close_connection = True

    return Handler


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub at ``hub.endpoint`` with its CDN at another port."""
    hub = Hub()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(hub, name)) for name in ("hub", "cdn")]
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
