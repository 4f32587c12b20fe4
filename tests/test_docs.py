"""The code in README.md and docs/ runs: per file and in order, each python block in one namespace and each `$ nabi` line of a console block.

They run in an empty folder, so a block that needs a file makes it first.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```(?:python|console)", re.MULTILINE)
COMMAND = re.compile(r"^\$ (nabi\b(?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)


def blocks(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, "python" or "console", code) of each block, in order; of a console block each of its commands."""
    for block in BLOCK.finditer(text):
        kind, code = block.groups()
        if kind == "python":
            yield text.count("\n", 0, block.start(2)) + 1, kind, code
            continue
        for command in COMMAND.finditer(code):
            yield text.count("\n", 0, block.start(2) + command.start()) + 1, kind, command[1]


def run(file: Path) -> None:
    """Run all blocks of a file in the current folder; a failure names its file and line."""
    text = file.read_text(encoding="utf-8")
    assert len(BLOCK.findall(text)) == len(FENCE.findall(text)), f"{file}: a fence is not closed, or has words after its language"
    # the interpreter of this test, whatever `nabi` the shell would find
    nabi = f"{shlex.quote(sys.executable)} -m nabi"
    scope: dict[str, object] = {"__name__": "__main__"}
    for line, kind, code in blocks(text):
        if kind == "python":
            try:
                exec(compile("\n" * (line - 1) + code, str(file), "exec"), scope)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{file}, block at line {line}: {type(error).__name__}: {error}") from error
        else:
            command = re.sub(r"(^|\| *)nabi\b", rf"\1{nabi}", code)
            done = subprocess.run(command, shell=True, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
            assert done.returncode == 0, f"{file}, line {line}: exit code {done.returncode} of: {code}\n{done.stdout}{done.stderr}"


def run_apart(file: Path, folder: Path) -> str:
    """What running the file's blocks in a fresh interpreter complains of; in this one they would leave plugins and settings behind."""
    done = subprocess.run([sys.executable, __file__, str(file)], cwd=folder, capture_output=True, text=True)
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_blocks_run(file: Path, tmp_path: Path) -> None:
    problem = run_apart(file, tmp_path)
    assert not problem, problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# x\n\n```python\na = 1\n```\n\n```python\nassert a == 2\n```\n", "broken.md, block at line 8: AssertionError"),
        ("```console\n$ pip install nabi\n$ nabi --help\n$ nabi no-such-verb \\\n    --now\n```\n", "broken.md, line 4: exit code 2"),
        ("```python title\na = 1\n```\n", "has words after its language"),
    ],
)
def test_control_a_broken_block_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.md"
    file.write_text(text, encoding="utf-8")
    assert message in run_apart(file, tmp_path)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
