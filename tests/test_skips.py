"""A skipped test fails the run and is named (tests/conftest.py)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPS = {
    "in a test": "def test_it():\n    pytest.skip('no')",
    "a whole file": "pytest.importorskip('no_such_module')",
    "by a mark": "@pytest.mark.skipif(True, reason='no')\ndef test_it(): ...",
}


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "test_inner.py").write_text(f"import pytest\n{code}\ndef test_other(): ...\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


@pytest.mark.parametrize("code", SKIPS.values(), ids=SKIPS)
def test_a_skip_fails_the_run(tmp_path: Path, code: str) -> None:
    done = run(tmp_path, code)
    assert done.returncode == 1 and "skipped tests: 1 (allowed: 0)" in done.stdout and "fails the run: test_inner.py" in done.stdout, done.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    done = run(tmp_path, "@pytest.mark.xfail\ndef test_it():\n    assert False")
    assert done.returncode == 0 and "skipped tests: 0" in done.stdout, done.stdout
