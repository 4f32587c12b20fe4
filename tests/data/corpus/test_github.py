"""The source ``github`` against a server that speaks the API: what is asked, with which token, how often, and what a stopped download asks again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.corpus.github_server import GitHubServer, reset_in, serving
from nabi.data.corpus import fetching
from nabi.data.corpus.documents import Document, Origin, Trouble
from nabi.data.corpus.fetching import Api, next_page
from nabi.data.corpus.github import GitHub, open_origin
from nabi.data.corpus.streams import HostileError
from nabi.errors import DataError, OptionError, UserError, WorkError

TOKEN = "ghp_secret0123456789"
BIG = random.Random(0).randbytes(300_000).hex().encode()  # packs to about half


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[GitHubServer]:
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as hub:
        monkeypatch.setenv("GITHUB_API_URL", hub.api)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        yield hub


def built(source: GitHub, work: Path) -> tuple[list[Document], Trouble]:
    """All that a source gives, each unit read by a source that is made anew, as another process would."""
    documents, trouble = [], Trouble()
    for unit in source.units(work):
        documents += open_origin(source.origin).read(unit, trouble)
    return documents, trouble


def read(path: str, work: Path, **more: Any) -> tuple[list[Document], Trouble]:
    return built(open_origin(Origin(path, **more)), work)


def waits(source: GitHub) -> list[float]:
    """Record waits in place of making them."""
    seen: list[float] = []
    source.api.sleep = seen.append
    return seen


def test_a_repository_is_read_with_its_commit_and_licence(hub: GitHubServer, tmp_path: Path) -> None:
    commit = hub.add("ada/engine", {"src/a.py": b"a = 1\n", "README.md": "글\n".encode(), "src/link.py": "../../../etc/passwd", "logo.png": b"\x89PNG\0\1"})
    documents, trouble = read("ada/engine", tmp_path)
    assert [d.path for d in documents] == ["ada/engine/src/a.py", "ada/engine/README.md"]
    assert documents[0].facts == {"repo": "ada/engine", "commit": commit, "license": "MIT", "path": "src/a.py"}
    assert trouble.counts == {"link": 1, "binary": 1}
    assert [r.path for r in hub.requests if r.server == "api"] == ["/repos/ada/engine", "/repos/ada/engine/commits/main", f"/repos/ada/engine/tarball/{commit}"]


def test_patterns_are_held_against_paths_inside_the_repository(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"src/a.py": b"a", "src/b.txt": b"b", "tests/c.py": b"c"})
    documents, _ = read("ada/engine", tmp_path, include=("src/*.py",))
    assert [d.path for d in documents] == ["ada/engine/src/a.py"]
    with pytest.raises(DataError, match="nothing to read"):
        read("ada/engine", tmp_path, include=("*.rs",))


def test_a_branch_a_tag_and_a_commit_can_be_named(hub: GitHubServer, tmp_path: Path) -> None:
    old = hub.add("ada/engine", {"a.py": b"old"}, "release/1")
    hub.add("ada/engine", {"a.py": b"new"})
    for ref, text in (("release/1", "old"), (old, "old"), ("main", "new")):
        documents, _ = read(f"ada/engine@{ref}", tmp_path)
        assert [d.text for d in documents] == [text]


def test_the_token_goes_to_the_api_alone(hub: GitHubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    read("ada/engine", tmp_path)
    assert {r.token for r in hub.requests if r.server == "api"} == {f"Bearer {TOKEN}"}
    assert [r.token for r in hub.requests if r.server == "codeload"] == [""]
    hub.moved["/repos/ada/old"] = f"{hub.codeload}/repos/ada/engine"
    with pytest.raises((UserError, WorkError)) as problem:
        read("ada/old", tmp_path)
    assert {r.token for r in hub.requests if r.server == "codeload"} == {""}
    kept = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert TOKEN.encode() not in kept and TOKEN not in str(problem.value) + "".join(capsys.readouterr()) + repr(open_origin(Origin("a/b")).api)


def test_a_renamed_repository_is_followed(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    hub.moved["/repos/ada/old"] = "/repos/ada/engine"
    assert [d.path for d in read("ada/old", tmp_path)[0]] == ["ada/engine/a.py"]


def test_redirects_without_end_or_to_a_file_are_refused(hub: GitHubServer, tmp_path: Path) -> None:
    hub.moved["/repos/a/circle"] = "/repos/a/circle"
    hub.moved["/repos/a/file"] = "file:///etc/passwd"
    for name in ("a/circle", "a/file"):
        with pytest.raises(DataError, match="redirect"):
            read(name, tmp_path)
    assert len(hub.requests) <= fetching.REDIRECTS + 2


def test_https_never_leads_to_a_plain_connection() -> None:
    with pytest.raises(DataError, match="from https to a plain connection"):
        Api("https://api.example")._led("https://api.example/repos/a/b", "http://api.example/repos/a/b")


def test_a_cut_download_goes_on_where_it_stopped_in_a_later_run(hub: GitHubServer, tmp_path: Path) -> None:
    commit = hub.add("ada/engine", {"big.txt": BIG})
    size = len(hub.repositories["ada/engine"].tarballs[commit])
    hub.cuts[:] = [100_000, 50_000, 0, 0, 0, 0, 0]
    source = open_origin(Origin("ada/engine"))
    waits(source)
    with pytest.raises(WorkError, match="it goes on where it stopped"):
        built(source, tmp_path)
    assert not list(tmp_path.rglob("*.tar.gz"))
    hub.cuts.clear()
    hub.add("ada/engine", {"big.txt": b"pushed meanwhile"})
    documents, _ = read("ada/engine", tmp_path)
    assert documents[0].text == BIG.decode() and documents[0].facts["commit"] == commit
    asked = hub.sent()
    assert asked[0] == ("", 100_000) and asked[1] == ("bytes=100000-", 50_000) and asked[-1] == ("bytes=150000-", size - 150_000)
    assert sum(sent for _, sent in asked) == size


def test_a_second_build_asks_nothing(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    first, _ = read("ada/engine", tmp_path)
    hub.requests.clear()
    hub.add("ada/engine", {"a.py": b"b"})
    again, _ = read("ada/engine", tmp_path)
    assert not hub.requests and [d.text for d in again] == [d.text for d in first] == ["a"]


@pytest.mark.parametrize("how", ["another etag", "a weak etag", "no ranges", "chunks"])
def test_where_no_range_can_be_trusted_the_download_begins_again(hub: GitHubServer, tmp_path: Path, how: str) -> None:
    hub.add("ada/engine", {"big.txt": BIG})
    hub.cuts[:] = [100_000]
    hub.ranges, hub.chunked = how != "no ranges", how == "chunks"
    # codeload sends chunks and a weak etag, as it packs while it sends
    hub.etags = {"another etag": ['"one"', '"two"'], "no ranges": []}.get(how, ['W/"weak"'] * 2)
    documents, _ = read("ada/engine", tmp_path)
    assert [d.text for d in documents] == [BIG.decode()]
    size = len(next(iter(hub.repositories["ada/engine"].tarballs.values())))
    assert [sent for _, sent in hub.sent()] == [100_000, size]


def test_an_archive_that_was_changed_on_its_way_is_not_kept(hub: GitHubServer, tmp_path: Path) -> None:
    commit = hub.add("ada/engine", {"big.txt": BIG})
    tarballs = hub.repositories["ada/engine"].tarballs
    right = tarballs[commit]
    tarballs[commit] = right[:5000] + b"\0\1\2\3" + right[5004:]
    with pytest.raises(DataError, match="big|tar.gz"):
        read("ada/engine", tmp_path)
    assert not list(tmp_path.rglob("*.tar.gz")) and not list(tmp_path.rglob("*.part"))
    tarballs[commit] = right
    assert len(read("ada/engine", tmp_path)[0]) == 1


def test_an_archive_that_is_too_long_is_refused_while_it_comes(hub: GitHubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("ada/engine", {"big.txt": BIG})
    monkeypatch.setattr("nabi.data.corpus.github.TARBALL", 10_000)
    with pytest.raises(DataError, match="too long"):
        read("ada/engine", tmp_path)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("name", ["!../../outside.py", "!/etc/outside.py", "!x/../../outside.py"])
def test_a_hostile_archive_is_refused_and_nothing_leaves_its_folder(hub: GitHubServer, tmp_path: Path, name: str) -> None:
    hub.add("ada/evil", {"a.py": b"a", name: b"b"})
    with pytest.raises(HostileError):
        read("ada/evil", tmp_path / "work")
    assert [p.name for p in tmp_path.iterdir()] == ["work"]


def test_a_search_is_read_page_by_page_and_its_bad_results_are_counted(hub: GitHubServer, tmp_path: Path) -> None:
    for name in ("a/one", "b/two", "c/three", "d/four", "e/evil"):
        hub.add(name, {"x.py": name.encode(), **({"!../y.py": b"y"} if name == "e/evil" else {})}, license=None if name == "b/two" else "Apache-2.0")
    hub.refusals["/repos/c/three/commits"] = [(451, {})]
    documents, trouble = read("search:language:python stars:>100", tmp_path, license="unknown")
    assert [(d.path, d.facts["license"]) for d in documents] == [("a/one/x.py", "Apache-2.0"), ("b/two/x.py", "unknown"), ("d/four/x.py", "Apache-2.0")]
    assert trouble.counts == {"unavailable": 1, "hostile": 1}
    searches = [r.query for r in hub.requests if r.path == "/search/repositories"]
    assert len(searches) == 3 and searches[0]["q"] == ["language:python stars:>100"]


def test_a_search_that_github_did_not_finish_is_no_corpus(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("a/one", {"x.py": b"x"})
    hub.incomplete = True
    with pytest.raises(WorkError, match="did not finish the search"):
        read("search:x", tmp_path)
    hub.incomplete = False
    hub.repositories.clear()
    with pytest.raises(DataError, match="finds no repository"):
        read("search:x", tmp_path)


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (429, {"Retry-After": "7"}, 7, 7),
        (403, {"Retry-After": "3"}, 3, 3),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"}, 28, 32),
        (429, {}, fetching.UNSAID, fetching.UNSAID),
    ],
)
def test_a_used_up_limit_is_waited_for(hub: GitHubServer, tmp_path: Path, status: int, headers: dict[str, str], least: float, most: float) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    if "X-RateLimit-Reset" in headers:
        headers = {**headers, "X-RateLimit-Reset": reset_in(30)}
    hub.refusals["/repos/ada/engine"] = [(status, headers)]
    source = open_origin(Origin("ada/engine"))
    waited = waits(source)
    assert len(built(source, tmp_path)[0]) == 1
    assert len(waited) == 1 and least <= waited[0] <= most


def test_a_longer_wait_than_allowed_says_when_to_come_again(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    hub.refusals["/repos/ada/engine"] = [(403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "4102444800"})]
    source = open_origin(Origin("ada/engine"))
    waited = waits(source)
    with pytest.raises(WorkError, match=r"come again at 2100-01-01 00:00:01 UTC"):
        built(source, tmp_path)
    assert not waited
    hub.refusals["/repos/ada/engine"] = [(429, {"Retry-After": "0"})] * 50
    with pytest.raises(WorkError, match="come again at"):
        built(source, tmp_path)
    assert len(waited) == fetching.ROUNDS


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, OptionError, "refuses the token"), (403, DataError, "refuses access"), (404, DataError, "does not have this"),
        (409, DataError, "nothing in this"), (422, DataError, "does not understand"), (451, DataError, "legal reasons"), (418, DataError, r"\(418\)"),
    ],
)  # fmt: skip
def test_each_refusal_is_told_at_once(hub: GitHubServer, tmp_path: Path, status: int, error: type[Exception], message: str) -> None:
    hub.refusals["/repos/ada/engine"] = [(status, {})]
    with pytest.raises(error, match=message):
        read("ada/engine", tmp_path)
    assert len(hub.requests) == 1


def test_a_failing_server_is_asked_again_a_few_times(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    hub.refusals["/repos/ada/engine/commits"] = [(502, {})] * (fetching.TRIES - 1)
    assert len(read("ada/engine", tmp_path / "1")[0]) == 1
    hub.refusals["/repos/ada/engine/commits"] = [(502, {})] * 50
    hub.requests.clear()
    with pytest.raises(WorkError, match=r"an error \(502\), 5 times in a row"):
        read("ada/engine", tmp_path / "2")
    assert len([r for r in hub.requests if "commits" in r.path]) == fetching.TRIES


def test_no_server_at_all_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    with serving() as hub:
        monkeypatch.setenv("GITHUB_API_URL", hub.api)
    with pytest.raises(WorkError, match="can't be reached"):
        read("ada/engine", tmp_path)


@pytest.mark.parametrize(
    "body",
    [b"<html>a proxy</html>", b"[]", b"{}", b"null", b'{"full_name": "../../etc/x", "default_branch": "main"}', b'{"full_name": 3}', b"[" * 100_000,
     b"\xff\xfe", b""],
)  # fmt: skip
def test_an_answer_that_is_not_the_api_s_is_an_error(hub: GitHubServer, tmp_path: Path, body: bytes) -> None:
    hub.other["/repos/ada/engine"] = body
    with pytest.raises(DataError, match="no answer of this API"):
        read("ada/engine", tmp_path)


@pytest.mark.parametrize("sha", ["../../x", 3, None, "abc"])
def test_a_commit_that_is_none_is_an_error(hub: GitHubServer, tmp_path: Path, sha: object) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    hub.other["/repos/ada/engine/commits/main"] = json.dumps({"sha": sha}).encode()
    with pytest.raises(DataError, match="no answer of this API"):
        read("ada/engine", tmp_path)


@pytest.mark.parametrize("path", ["ada", "https://github.com/ada/engine", "ada/engine@", "../..", "ada/..", "search:", "search: ", "a/b/c", "a b/c", ""])
def test_a_path_that_names_no_repository_is_told(path: str) -> None:
    with pytest.raises(OptionError, match="names no repository"):
        open_origin(Origin(path))


@pytest.mark.parametrize("base", ["ftp://x", "api.github.com", "https://user:secret@host", "http://"])
def test_an_address_that_is_none_of_the_web_is_told(base: str) -> None:
    with pytest.raises(OptionError, match="address of the API"):
        Api(base)


def test_the_next_page_is_found_in_a_link_header() -> None:
    assert next_page('<https://x/?page=1>; rel="prev", <https://x/?page=3>; rel="next"') == "https://x/?page=3"
    assert next_page('<https://x/?page=1>; rel="last"') == next_page("") == ""


def test_of_a_search_with_more_results_than_are_given_those_that_are_given_are_read(
    hub: GitHubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nabi.data.corpus.github.FOUND", 4)
    monkeypatch.setattr("nabi.data.corpus.github.PAGE", 2)
    for name in ("a/1", "b/2", "c/3", "d/4", "e/5"):
        hub.add(name, {"x.py": b"x"})
    assert [d.facts["repo"] for d in read("search:x", tmp_path)[0]] == ["a/1", "b/2", "c/3", "d/4"]
    searches = [r.query for r in hub.requests if r.path == "/search/repositories"]
    assert len(searches) == 2 and searches[0] == {"q": ["x"], "sort": ["stars"], "order": ["desc"], "per_page": ["2"]}
    assert "the search finds 5 repositories; the 4 with the most stars are read" in capsys.readouterr().err
    hub.repositories.pop("e/5")
    read("search:x y", tmp_path)
    assert not capsys.readouterr().err


def test_a_result_that_moved_to_the_next_page_meanwhile_is_read_once(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("a/one", {"x.py": b"x"})
    hub.other["/search/repositories"] = json.dumps({"total_count": 2, "items": [hub.told("a/one")] * 2}).encode()
    assert [d.path for d in read("search:x", tmp_path)[0]] == ["a/one/x.py"]


def test_a_licence_that_github_does_not_know_is_the_one_that_was_given(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"a.py": b"a"}, license="NOASSERTION")
    assert [d.facts["license"] for d in read("ada/engine", tmp_path, license="unknown")[0]] == ["unknown"]


@pytest.mark.parametrize("ref", ["fix#1", "what?", "100%25", "a b"])
def test_a_branch_may_have_signs_that_addresses_use(hub: GitHubServer, tmp_path: Path, ref: str) -> None:
    hub.add("ada/engine", {"a.py": b"main"})
    hub.add("ada/engine", {"a.py": b"branch"}, ref)
    assert [d.text for d in read(f"ada/engine@{ref}", tmp_path)[0]] == ["branch"]


def test_another_commit_than_was_asked_for_is_an_error(hub: GitHubServer, tmp_path: Path) -> None:
    old, new = hub.add("ada/engine", {"a.py": b"old"}), hub.add("ada/engine", {"a.py": b"new"})
    hub.other[f"/repos/ada/engine/commits/{old}"] = json.dumps({"sha": new}).encode()
    with pytest.raises(DataError, match="another commit came than was asked for"):
        read(f"ada/engine@{old}", tmp_path)


def test_a_tarball_that_was_deleted_is_fetched_again(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"a.py": b"old"})
    read("ada/engine", tmp_path)
    hub.add("ada/engine", {"a.py": b"new"})
    (tarball,) = tmp_path.rglob("*.tar.gz")
    tarball.unlink()
    assert [d.text for d in read("ada/engine", tmp_path)[0]] == ["old"], "of the same commit"


def test_what_one_server_gave_is_not_taken_for_anothers(hub: GitHubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("ada/engine", {"a.py": b"here"})
    read("ada/engine", tmp_path)
    with serving() as other:
        other.add("ada/engine", {"a.py": b"there"})
        monkeypatch.setenv("GITHUB_API_URL", other.api)
        assert [d.text for d in read("ada/engine", tmp_path)[0]] == ["there"]


def test_a_refusal_with_requests_left_is_not_waited_for(hub: GitHubServer, tmp_path: Path) -> None:
    hub.refusals["/repos/ada/engine"] = [(403, {"X-RateLimit-Remaining": "12", "X-RateLimit-Reset": reset_in(30)})]
    source = open_origin(Origin("ada/engine"))
    waited = waits(source)
    with pytest.raises(DataError, match="refuses access"):
        built(source, tmp_path)
    assert not waited


def test_a_limit_that_is_told_in_words_alone_is_waited_for(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"a.py": b"a"})
    hub.said = b'{"message": "You have exceeded a secondary Rate Limit."}'
    hub.refusals["/repos/ada/engine"] = [(403, {})]
    source = open_origin(Origin("ada/engine"))
    waited = waits(source)
    assert len(built(source, tmp_path)[0]) == 1 and waited == [fetching.UNSAID]


def test_a_range_that_begins_elsewhere_is_not_put_behind_what_came(hub: GitHubServer, tmp_path: Path) -> None:
    hub.add("ada/engine", {"big.txt": BIG})
    hub.cuts[:], hub.shifts[:] = [100_000], [1000]
    assert [d.text for d in read("ada/engine", tmp_path)[0]] == [BIG.decode()]
    assert [asked for asked, _ in hub.sent()] == ["", "bytes=100000-", ""]
