"""GitHub's REST API in the test process, with a second address for tarballs (GitHub's codeload), and faults on demand."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Request:
    server: str
    path: str
    query: dict[str, list[str]]
    token: str
    range: str
    sent: int = 0


@dataclass
class Repository:
    """Branches and their commits; ``tarballs[commit]`` is what codeload sends."""

    branches: dict[str, str] = field(default_factory=dict)
    tarballs: dict[str, bytes] = field(default_factory=dict)
    license: str | None = "MIT"


@dataclass
class GitHubServer:
    """Repositories and faults."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    api: str = ""
    codeload: str = ""
    requests: list[Request] = field(default_factory=list)
    refusals: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)  # path or its beginning -> (status, headers) of the next answers
    cuts: list[int] = field(default_factory=list)  # after how many bytes each of the next tarballs is cut
    etags: list[str] = field(default_factory=list)  # of the next tarballs; by default their hashes
    ranges: bool = True
    chunked: bool = False
    other: dict[str, bytes] = field(default_factory=dict)  # path -> what is sent in its place
    page: int = 2  # results on a page of a search
    moved: dict[str, str] = field(default_factory=dict)  # path -> where a redirect leads
    incomplete: bool = False
    said: bytes = b'{"message": "no"}'  # the body of each refusal
    shifts: list[int] = field(default_factory=list)  # by how many bytes the next ranges begin too early

    def add(self, name: str, files: dict[str, bytes | str], branch: str = "main", *, license: str | None = "MIT") -> str:
        """A new commit; a file's value that is a string is where a link leads."""
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository(license=license))
        repository.branches[branch] = commit
        repository.tarballs[commit] = tarball(f"{name.replace('/', '-')}-{commit[:7]}", commit, files)
        return commit

    def told(self, name: str) -> dict[str, Any]:
        licence = self.repositories[name].license
        return {"full_name": name, "default_branch": "main", "license": {"spdx_id": licence} if licence else None}

    def sent(self) -> list[tuple[str, int]]:
        """Range and bytes of each answer of codeload."""
        return [(r.range, r.sent) for r in self.requests if r.server == "codeload"]


def tarball(folder: str, commit: str, files: dict[str, bytes | str]) -> bytes:
    """As GitHub makes them: a global header with the commit, one folder around all."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT, pax_headers={"comment": commit}) as tar:
        top = tarfile.TarInfo(folder)
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for name, data in files.items():
            info = tarfile.TarInfo(name if name.startswith("!") else f"{folder}/{name}")
            info.name = info.name.removeprefix("!")
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def handler(hub: GitHubServer, server: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            self.seen = Request(server, path, parse_qs(parts.query), self.headers.get("Authorization", ""), self.headers.get("Range", ""))
            hub.requests.append(self.seen)
            for start, refusals in hub.refusals.items():
                if path.startswith(start) and refusals:
                    status, headers = refusals.pop(0)
                    return self.answer(status, hub.said, headers)
            if path in hub.other:
                return self.answer(200, hub.other[path], {})
            if path in hub.moved:
                return self.answer(301, b"", {"Location": hub.moved[path]})
            if server == "codeload":
                return self.tarball(path)
            if path == "/search/repositories":
                return self.search(int(self.seen.query.get("page", ["1"])[0]))
            words = path.removeprefix("/repos/").split("/", 3)
            name = "/".join(words[:2])
            repository = hub.repositories.get(name)
            if repository is None:
                return self.answer(404, b'{"message": "Not Found"}', {})
            if len(words) == 2:
                return self.json(hub.told(name))
            commit = repository.branches.get(words[3]) or (words[3] if words[3] in repository.tarballs else None)
            if commit is None:
                return self.answer(422, b'{"message": "No commit found"}', {})
            if words[2] == "commits":
                return self.json({"sha": commit})
            return self.answer(302, b"", {"Location": f"{hub.codeload}/{name}/{commit}?token=signed"})

        def search(self, number: int) -> None:
            names = sorted(hub.repositories)
            some = names[(number - 1) * hub.page : number * hub.page]
            links = [f'<{hub.api}/search/repositories?q=x&page={number - 1}>; rel="prev"'] if number > 1 else []
            if number * hub.page < len(names):
                links.append(f'<{hub.api}/search/repositories?q=x&page={number + 1}>; rel="next"')
            body = {"total_count": len(names), "incomplete_results": hub.incomplete, "items": [hub.told(name) for name in some]}
            self.json(body, {"Link": ", ".join(links)} if links else {})

        def tarball(self, path: str) -> None:
            name, _, commit = path.strip("/").rpartition("/")
            data = hub.repositories[name].tarballs[commit]
            etag = hub.etags.pop(0) if hub.etags else f'"{hashlib.sha256(data).hexdigest()}"'
            headers = {"ETag": etag, "Content-Type": "application/x-gzip"}
            start = int(self.seen.range.removeprefix("bytes=").partition("-")[0] or 0)
            if not hub.ranges or self.headers.get("If-Range", etag) != etag:
                start = 0
            if start >= len(data):
                return self.answer(416, b"", {})
            if start:
                start -= hub.shifts.pop(0) if hub.shifts else 0
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.answer(206 if start else 200, data[start:], headers, hub.cuts.pop(0) if hub.cuts else None, chunked=hub.chunked)

        def json(self, body: Any, headers: dict[str, str] | None = None) -> None:
            self.answer(200, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

        def answer(self, code: int, body: bytes, headers: dict[str, str], cut: int | None = None, *, chunked: bool = False) -> None:
            self.send_response(code)
            size = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
            for key, value in {**size, **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            part = body if cut is None else body[:cut]
            self.seen.sent = len(part)
            if chunked:
                for at in range(0, len(part), 1000):
                    piece = part[at : at + 1000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                if cut is None:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(part)
            if cut is not None:
                self.wfile.flush()
                self.close_connection = True

    return Handler


@contextmanager
def serving() -> Iterator[GitHubServer]:
    """The API at ``hub.api``; tarballs come from another port."""
    hub = GitHubServer()
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(hub, name)) for name in ("api", "codeload")]
    hub.api, hub.codeload = (f"http://127.0.0.1:{server.server_port}" for server in servers)
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


def reset_in(seconds: float) -> str:
    """The value of X-RateLimit-Reset."""
    return str(int(time.time() + seconds))
