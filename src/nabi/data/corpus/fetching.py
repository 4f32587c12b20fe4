"""A web API and its large files over HTTP, with the standard library alone: patient, bounded, and careful with its token.

Unusual: no redirect is followed unseen. The token goes to the API's own scheme, host and port and nowhere else, an https address never leads to a plain one,
and no message repeats an address of another host, since it may be signed. A download that was cut goes on from its last byte, in a later process too,
where the server can send a range of the very same bytes (a strong ETag, RFC 9110 sections 13.1.5 and 14.2); elsewhere it begins again.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urljoin, urlsplit

from nabi.data.corpus.streams import Stream
from nabi.errors import DataError, OptionError, StorageError, WorkError
from nabi.files import whole

TRIES, PAUSE, TIMEOUT = 5, 0.5, 30.0  # attempts that bring nothing new, seconds after the first of them, seconds without a byte
REDIRECTS, ROUNDS = 5, 10  # of one request; waits for one request
ANSWER = 1 << 25  # bytes of JSON
PIECE = 1 << 18
UNSAID = 60  # seconds to wait when a limit is hit and no header says how long, as GitHub's documentation asks


class Passing(Exception):
    """A failure that may be over at the next attempt."""


class Refused(DataError):
    """What was asked for is not given: ``status`` is the server's."""

    def __init__(self, status: int, what: str, *, value: str, fix: str) -> None:
        super().__init__(what, value=value, fix=fix)
        self.status = status


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Redirects are ours to follow."""


@dataclass
class Api:
    """A server that speaks JSON.

    Attributes:
        base: its address.
        token: who asks; sent to ``base``'s own host only.
        longest: seconds that a wait for its limits may take; a longer one is an error that says when to come again.
        sleep, now: the clock, in seconds.
    """

    base: str
    token: str = field(default="", repr=False)
    longest: float = 900.0
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self.base = self.base.rstrip("/")
        try:
            self._home = _home(self.base)
        except ValueError:
            raise OptionError("the address of the API can't be used", value=self.base, expected="https://HOST or http://HOST:PORT") from None
        if self.token and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise OptionError("the token holds characters that no token has", fix="set GITHUB_TOKEN again, without line ends or quotes")
        # a handler of none: other schemes (file:) are no part of this
        self._opener = urllib.request.build_opener(_Stay)

    def get(self, address: str) -> tuple[Any, str]:
        """The JSON at an address, or at a path below ``base``, and the address of the next page (empty if this is the last).

        Raises:
            Refused: the server does not give it (404, 451, no right to).
            OptionError: it refuses the token.
            WorkError: it can't be reached, fails, or its limit is used up for longer than ``longest``.
            DataError: the answer is not JSON.
        """
        failure = ""
        for attempt in range(TRIES):
            if attempt:
                self.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                with self._answer(address, {"Accept": "application/vnd.github+json"}) as (answer, place):
                    data = answer.read(ANSWER + 1)
                    if short := _missing(answer, len(data)):
                        raise Passing(f"cut the connection ({short:,} bytes are missing)")
                    link = next_page(answer.headers.get("Link", ""))
            except Passing as problem:
                failure = str(problem)
                continue
            except (OSError, http.client.HTTPException) as problem:
                failure = f"cut the connection ({type(problem).__name__})"
                continue
            try:
                if len(data) > ANSWER:
                    raise ValueError
                return json.loads(data), urljoin(place, link) if link else ""
            except (ValueError, RecursionError):
                raise self.wrong(data[:60].decode(errors="replace")) from None
        raise WorkError(f"{self.host} {failure}, {TRIES} times in a row; start again later: what has come is kept")

    @property
    def host(self) -> str:
        """The server, for messages."""
        scheme, host, port = self._home
        return f"{scheme}://{host}:{port}"

    def wrong(self, seen: str) -> DataError:
        """The error for an answer that this API does not give."""
        return DataError(f"{self.host} gives no answer of this API", value=seen, fix="check GITHUB_API_URL, and that no proxy answers in its place")

    def download(self, address: str, path: Path, most: int) -> None:
        """Bring a file to ``path``, which is there whole or not at all.

        Args:
            address: where it is.
            path: gzip is checked to its end before the file gets this name; what has come waits beside it as ``.part``.
            most: bytes that it may have.

        Raises:
            Refused, OptionError, WorkError: as ``get``.
            DataError: it is longer than ``most``, or not what was sent.
            StorageError: it can't be written.
        """
        part, note = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")
        try:
            self._brought(address, part, note, most)
        except OSError as problem:
            raise StorageError(f"{part} could not be written: {problem}; free some space there, then start again: it goes on where it stopped") from None
        _check_gzip(part)
        with whole(path) as draft:
            part.replace(draft)
        note.unlink(missing_ok=True)

    def _brought(self, address: str, part: Path, note: Path, most: int) -> None:
        """Fill ``part`` to the file's end, over as many connections as bring something new."""
        left, reached, failure, done = TRIES, 0, "", False
        while not done:
            if not left:
                raise WorkError(f"{self.host} {failure}, {TRIES} times in a row; start again later: it goes on where it stopped")
            if left < TRIES:
                self.sleep(PAUSE * 2 ** (TRIES - left - 1))
            try:
                self._piece(address, part, note, most)
                done = True
            except Passing as problem:
                failure = str(problem)
            now = part.stat().st_size if part.exists() else 0
            # a server that always starts anew and breaks off at one place makes no progress
            left, reached = (TRIES, now) if now > reached else (left - 1, reached)

    def _piece(self, address: str, part: Path, note: Path, most: int) -> None:
        """Fill ``part`` from where it ends to the file's end, or as far as the connection holds."""
        have, mark = part.stat().st_size if part.exists() else 0, _mark(note)
        # identity: a range of a packed answer would be a range of other bytes
        wanted = {"Accept-Encoding": "identity", "Accept": "application/octet-stream, */*"}
        if have and mark:
            wanted |= {"Range": f"bytes={have}-", "If-Range": mark}
        try:
            with self._answer(address, wanted) as (answer, _):
                goes_on = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-") and "Range" in wanted
                if answer.status == 206 and not goes_on:
                    part.unlink(missing_ok=True)
                    raise Passing("sent another range than the one that was asked for")
                start = have if goes_on else 0
                said = answer.headers.get("Content-Length", "")
                if said.isdigit() and int(said) > (free := shutil.disk_usage(part.parent).free):
                    raise WorkError(f"{int(said):,} bytes to fetch, {free:,} bytes free in {part.parent}; free some space there")
                if not goes_on:
                    # first the mark, then the bytes: a mark of other bytes must never stand beside these
                    part.unlink(missing_ok=True)
                    etag = answer.headers.get("ETag", "")
                    with whole(note) as draft:
                        draft.write_text(json.dumps({"etag": "" if etag.startswith("W/") else etag}), encoding="utf-8")
                with part.open("ab") as out:
                    while piece := answer.read(PIECE):
                        out.write(piece)
                        if out.tell() > most:
                            break
                    size = out.tell()
                    out.flush()
                    os.fsync(out.fileno())
                if size > most:
                    part.unlink()
                    fix = "leave it out, or fetch it yourself and name the file"
                    raise DataError(f"{self.host} sends a file that is too long", value=f"over {most:,} bytes", fix=fix)
                if short := _missing(answer, size - start):
                    raise Passing(f"cut the connection ({short:,} bytes are missing)")
        except Refused as problem:
            if problem.status != 416:
                raise
            part.unlink(missing_ok=True)
            raise Passing("has no such range of the file") from None
        except (TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as problem:
            raise Passing(f"cut the connection ({type(problem).__name__})") from None

    @contextmanager
    def _answer(self, address: str, headers: dict[str, str]) -> Iterator[tuple[http.client.HTTPResponse, str]]:
        """The answer at an address after all redirects and waits, open, and where it came from."""
        place = address if "://" in address else f"{self.base}/{address.lstrip('/')}"
        hops = rounds = 0
        while True:
            try:
                answer = self._opener.open(self._request(place, headers), timeout=TIMEOUT)
            except urllib.error.HTTPError as problem:
                with problem:
                    said = problem.read(1 << 16) if problem.code in (403, 429) else b""
                    target = problem.headers.get("Location", "")
                    if problem.code in (301, 302, 303, 307, 308) and target:
                        hops += 1
                        if hops > REDIRECTS:
                            raise self.wrong(f"more than {REDIRECTS} redirects in a row") from None
                        place = self._led(place, target)
                        continue
                    rounds += 1
                    self._refused(problem.code, problem.headers, said, place, rounds)
                    continue
            except (urllib.error.URLError, OSError, http.client.HTTPException) as problem:
                cause = problem.reason if isinstance(problem, urllib.error.URLError) else problem
                raise Passing(f"can't be reached, or cut the connection ({type(cause).__name__})") from None
            with answer:
                yield answer, place
            return

    def _request(self, place: str, headers: dict[str, str]) -> urllib.request.Request:
        request = urllib.request.Request(place, headers={"User-Agent": "nabi", "X-GitHub-Api-Version": "2022-11-28", **headers})
        if self.token and _home(place) == self._home:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        return request

    def _led(self, place: str, target: str) -> str:
        """Where a redirect leads."""
        try:
            new = urljoin(place, target)
            scheme, host, _ = _home(new)
        except ValueError:
            raise self.wrong("a redirect to no web address") from None
        if scheme == "http" and place.startswith("https:"):
            raise DataError(f"{self.host} leads from https to a plain connection", value=f"http://{host}", fix="do not use this server")
        return new

    def _refused(self, status: int, headers: Message, said: bytes, place: str, rounds: int) -> None:
        """Wait if a limit is used up; else raise what a status means."""
        if status >= 500 or status == 408:
            raise Passing(f"answers with an error ({status})")
        if (wait := self._wait(status, headers, said)) is not None:
            if wait > self.longest or rounds > ROUNDS:
                when = datetime.fromtimestamp(self.now() + wait, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                more = "" if self.token else "; with a token in GITHUB_TOKEN the limit is higher"
                told = f"the limit of {self.host} is used up: come again at {when} (waits of up to {self.longest:.0f} s are made); what has come is kept{more}"
                raise WorkError(told)
            print(f"the limit of {self.host} is used up: waiting {wait:.0f} s", file=sys.stderr)
            self.sleep(wait)
            return
        self._told(status, place)

    def _told(self, status: int, place: str) -> NoReturn:
        parts = urlsplit(place)
        what = parts.path.removeprefix(urlsplit(self.base).path) if _home(place) == self._home else f"a file on {parts.hostname}"
        if status == 401:
            fix = "set GITHUB_TOKEN to a token that is valid, or unset it for public repositories"
            raise OptionError(f"{self.host} refuses the token (401)", value=what, fix=fix)
        reasons = {403: ("refuses access (403)", "set GITHUB_TOKEN to a token that may read it"),
                   404: ("does not have this (404)", "check the spelling; for a private repository set GITHUB_TOKEN to a token that may read it"),
                   409: ("has nothing in this repository yet (409)", "leave it out"),
                   422: ("does not understand this (422)", "check the branch, tag or commit, or the words of the search"),
                   451: ("may not give this for legal reasons (451)", "leave it out")}  # fmt: skip
        why, fix = reasons.get(status, (f"answers with an error ({status})", "check GITHUB_API_URL"))
        raise Refused(status, f"{self.host} {why}", value=what, fix=fix)

    def _wait(self, status: int, headers: Message, said: bytes) -> float | None:
        """Seconds until a limit is over; None if this refusal is none of a limit."""
        after, left, reset = headers.get("Retry-After", ""), headers.get("X-RateLimit-Remaining", ""), headers.get("X-RateLimit-Reset", "")
        if status not in (403, 429):
            return None
        if after.strip().isdigit():
            return float(after)
        if left.strip() == "0" and reset.strip().isdigit():
            return max(float(reset) - self.now(), 0) + 1  # its clock counts whole seconds
        return float(UNSAID) if status == 429 or b"rate limit" in said.lower() else None


def _home(address: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address; a ValueError if it is none of the web."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(address)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def next_page(link: str) -> str:
    """The address that a Link header (RFC 8288) gives as the next; empty if none."""
    for part in link[: 1 << 14].split(","):
        address, *words = part.split(";")
        if any(word.strip().lower().replace('"', "") == "rel=next" for word in words):
            return address.strip().removeprefix("<").removesuffix(">")
    return ""


def _missing(answer: http.client.HTTPResponse, came: int) -> int:
    """How many bytes less came than were announced; an answer in chunks raises by itself."""
    said = answer.headers.get("Content-Length", "")
    return max(int(said) - came, 0) if said.isdigit() else 0


def _mark(note: Path) -> str:
    """The ETag of the bytes that have come, if it was a strong one."""
    try:
        etag = json.loads(note.read_bytes()).get("etag", "")
    except (OSError, ValueError, AttributeError):
        return ""
    return etag if isinstance(etag, str) and etag.isascii() and etag.isprintable() else ""


def _check_gzip(part: Path) -> None:
    """Read it to its end, which proves its bytes."""
    try:
        with Stream(part.open("rb"), ".gz", part.name) as stream:
            while stream.some():
                pass
    except DataError:
        part.unlink()
        raise
