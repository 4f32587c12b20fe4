"""Rules of the whole run: no test goes online, and no test is skipped in silence (what can't run here is deselected by its marker)."""

from __future__ import annotations

import atexit
import os
import shutil
import string
import tempfile
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NABI_CACHE"] = tempfile.mkdtemp(prefix="nabi-cache-")  # of this run alone: nothing that an earlier run left is read
atexit.register(shutil.rmtree, os.environ["NABI_CACHE"], ignore_errors=True)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: a second thread costs more than it gives, most of all on a busy machine
ALLOWED_SKIPS = 0
_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(_skipped) != ALLOWED_SKIPS and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"skipped tests: {len(_skipped)} (allowed: {ALLOWED_SKIPS})", red=len(_skipped) != ALLOWED_SKIPS)
    for name in _skipped:
        terminalreporter.write_line(f"  a skipped test fails the run: {name}", red=True)


@pytest.fixture(scope="session")
def small_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer that fits every tiny vocabulary: WordPiece over letters, 60 words."""
    folder, letters = tmp_path_factory.mktemp("words"), string.ascii_lowercase
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer(small_words: Path) -> Path:
    """The tokenizer of a test; a folder of tests may have another."""
    return small_words
