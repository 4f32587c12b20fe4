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


def run(file: Path) -> int:
    """Run all blocks of a file in the current folder and count them; a failure names its file and line."""
    text = file.read_text(encoding="utf-8")
    # the interpreter of this test, whatever `nabi` the shell would find
    nabi = f"{shlex.quote(sys.executable)} -m nabi"
    scope: dict[str, object] = {"__name__": "__main__"}
    count = 0
    for line, kind, code in blocks(text):
        count += 1
        if kind == "python":
            try:
                exec(compile("\n" * (line - 1) + code, str(file), "exec"), scope)
            except (Exception, SystemExit) as error:  # noqa: BLE001 whatever the block raises, its place is told
                pytest.fail(f"{file}, block at line {line}: {type(error).__name__}: {error}")
        else:
            command = re.sub(r"(^|\| *)nabi\b", rf"\1{nabi}", code)
            done = subprocess.run(command, shell=True, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"})
            if done.returncode:
                pytest.fail(f"{file}, line {line}: exit code {done.returncode} of: {code}\n{done.stdout}{done.stderr}")
    return count


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_blocks_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fences = re.findall(r"^```(?:python|console)", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(BLOCK.findall(file.read_text(encoding="utf-8"))) == len(fences), "a fence is not closed, or has words after its language"
    print(run(file), "blocks and commands")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# x\n\n```python\na = 1\n```\n\n```python\nassert a == 2\n```\n", "block at line 8: AssertionError"),
        ("```console\n$ pip install nabi\n$ nabi --help\n$ nabi no-such-verb \\\n    --now\n```\n", "line 4: exit code 2"),
    ],
)
def test_control_a_broken_block_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.md"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(pytest.fail.Exception, match=f"broken.md, {message}"):
        run(file)
