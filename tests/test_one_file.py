"""A family and a task are one new file each: dropped into a copy of the package, or given as plugins, they work everywhere and no other file changes.

The two files are the ones that docs/plugins.md shows.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.kit import CELLS, FAMILIES
from nabi import families, tasks

ROOT = Path(__file__).parents[1]
# the task of these files labels texts
CLASSIFIERS = [name for name in FAMILIES if "row" in families.find(name).body.heads and "text" in families.find(name).body.needs]
DOCS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"""Path\("(\w+\.py)"\)\.write_text\('''\n(.*?)'''\)""", DOCS, re.DOTALL))
TEXTS = ["short", "so so", "ok", "a long and winding road", "not bad", "one two three four five", "no", "the whole story once more"] * 2
CHOSEN = "bag or text_length or pinned"
BEYOND = "(overfitted and bag and (zero_shot or similarity))"  # a linear layer over a bag of words ranks labels, and texts, alike for all texts
PLUGINS = ["--plugin", "bag.py", "--plugin", "text_length.py"]
TRAIN = (
    "train --task text_length --family bag --tokenizer minilm --data texts.csv --out run --log quiet "
    "--set plan.epochs=15 --set plan.learning_rate=0.02"
)
USE = """
import sys
from nabi import load, pipeline, save
plugins = sys.argv[1:]
model = load("run", plugins=plugins)
assert (model.origin.family_name, model.task.name) == ("bag", "text_length")
save(model, "again")
texts = ["ok", "one two three four five"]
found = pipeline("text-length", "again", plugins=plugins)(texts)
assert found == load("again").predict(texts) == model.predict(texts) == [["short"], ["long"]], found
assert not model.check_golden() and load("again").origin.golden
from nabi.plugins import table
print(table())
"""


def code_lines(code: str) -> int:
    """Lines that are neither blank nor an import nor a docstring."""
    tree, lines = ast.parse(code), set()
    for number, line in enumerate(code.splitlines(), 1):
        if line.strip():
            lines.add(number)
    for node in ast.walk(tree):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if docstring or isinstance(node, ast.Import | ast.ImportFrom):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def run(package: Path, folder: Path, *args: str, code: int = 0, **env: str) -> str:
    """Run Python in ``folder`` with this package; standard output, after the exit code was checked."""
    settings = {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", **env}
    done = subprocess.run([sys.executable, *args], cwd=folder, capture_output=True, text=True, env={**os.environ, **settings})
    assert done.returncode == code, f"exit code {done.returncode} of {args}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stdout + done.stderr


def hashes(package: Path) -> dict[str, str]:
    return {str(p.relative_to(package)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(package.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with the two files in it."""
    source = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "src" / "nabi", source / "nabi", ignore=shutil.ignore_patterns("__pycache__"))
    return source


def with_data(folder: Path) -> Path:
    (folder / "texts.csv").write_text("text\n" + "\n".join(TEXTS) + "\n")
    return folder


def in_use(package: Path, folder: Path, plugins: list[str]) -> str:
    """Train, predict, evaluate, inspect and doctor on the command line; load, save and pipeline in Python; the table of both."""
    run(package, folder, "-m", "nabi", *TRAIN.split(), *plugins)
    assert run(package, folder, "-m", "nabi", "predict", "run", "ok", "one two three four five", *plugins) == '["short"]\n["long"]\n'
    assert "accuracy                 1.0000" in run(package, folder, "-m", "nabi", "evaluate", "run", "--data", "texts.csv", *plugins)
    assert "text_length" in run(package, folder, "-m", "nabi", "inspect", "run", *plugins)
    assert "golden vectors are as saved" in run(package, folder, "-m", "nabi", "doctor", "run", *plugins)
    return run(package, folder, "-c", USE, *plugins[1::2])


def test_they_are_small() -> None:
    assert list(FILES) == ["bag.py", "text_length.py"]
    assert code_lines(FILES["bag.py"]) <= 40 and len(FILES["bag.py"].splitlines()) <= 46
    assert code_lines(FILES["text_length.py"]) <= 20


def test_new_files_in_the_package(copied: Path, tmp_path: Path) -> None:
    before = hashes(copied / "nabi")
    (copied / "nabi" / "families" / "bag.py").write_text(FILES["bag.py"])
    (copied / "nabi" / "tasks" / "text_length.py").write_text(FILES["text_length.py"])
    table = in_use(copied, with_data(tmp_path), [])
    assert "| bag | Harris 1954 | tiny, base | row, token |" in table
    assert f"| text_length |  | text | row | {', '.join(sorted(['bag', *CLASSIFIERS]))} |" in table
    after = hashes(copied / "nabi")
    assert after.keys() - before.keys() == {"families/bag.py", "tasks/text_length.py"}
    assert {name: after[name] for name in before} == before


def test_conformance_of_new_files(copied: Path, tmp_path: Path) -> None:
    """The suite as it is, against the copy: more cells, and every rule for the new family."""
    (copied / "nabi" / "families" / "bag.py").write_text(FILES["bag.py"])
    (copied / "nabi" / "tasks" / "text_length.py").write_text(FILES["text_length.py"])
    args = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml")]
    args += ["--basetemp", str(tmp_path / "t"), "-k", f"({CHOSEN}) and not {BEYOND}", str(ROOT / "tests" / "conformance")]
    kinds = [tasks.find(name) for name in tasks.names() if "text" in tasks.find(name).parts]
    readers = [kind.name for kind in kinds if (*kind.heads, *kind.optional_heads) == ("row",)]
    # text_length on every family that classifies; it, its like and token_classification on bag
    cells = str(len(CELLS) + len(CLASSIFIERS) + len(readers) + 2)
    out = run(copied, ROOT, *args, NABI_CONFORMANCE_CELLS=cells)
    passed = set(re.findall(r"^PASSED \S+::(test_\w+)\[.*bag.*\]", out, re.MULTILINE))
    assert f"{cells} cells" in out and len(passed) >= 12, out
    assert re.search(r"^PASSED \S+::test_eight_rows_are_overfitted\[bert-text_length\]", out, re.MULTILINE)


def test_the_same_files_as_plugins(tmp_path: Path) -> None:
    source, folder = ROOT / "src", with_data(tmp_path)
    for name, code in FILES.items():
        (folder / name).write_text(code)
    table = in_use(source, folder, PLUGINS)
    assert "| bag |" in table and "| text_length |" in table
    # the folder that was saved does not open without them, and says what to give
    found = run(source, folder, "-m", "nabi", "predict", "run", "ok", code=2)
    assert "the checkpoint is of an unknown family: 'bag'" in found.lower() and "--plugin bag.py" in found
    found = run(source, folder, "-m", "nabi", "predict", "run", "ok", *PLUGINS[:2], code=2)
    assert "the checkpoint is for an unknown task: 'text_length'" in found.lower() and "--plugin text_length.py" in found


BAD = {
    "a taken family": ("bert.py", FILES["bag.py"], "the name is taken by another of the families: 'bert'. Rename the plugin's file."),
    "a taken task": ("text_classification.py", FILES["text_length.py"], "the name is taken by another of the tasks: 'text_classification'."),
    "another name than the file's": ("length.py", FILES["text_length.py"], "a task bears the name of its file: 'text_length in length.py'. Rename"),
    "a taken alias": (
        "text_length.py",
        FILES["text_length.py"].replace("    def outputs", '    aliases = ("sentiment_analysis",)\n\n    def outputs'),
        "the name is taken by text_classification: 'sentiment_analysis'.",
    ),
    "neither": ("nothing.py", "x = 1\n", "the plugin defines neither FAMILY nor TASK: 'nothing'. End the file with"),
    "no family": ("bag.py", "FAMILY = 5\n", "the plugin's FAMILY is no Family: 5."),
    "no tiny size": ("bag.py", FILES["bag.py"].replace('"tiny"', '"small"'), "the family has no size 'tiny'"),
    "a file that fails": ("bag.py", "import no_such_module\n", "the plugin fails to import (ModuleNotFoundError: No module named 'no_such_module'): "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_plugin_that_cannot_be_taken_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nabi import plugins
    from nabi.errors import PluginError

    monkeypatch.setattr(plugins, "_added", {"families": {}, "tasks": {}})
    file, code, message = BAD[name]
    (tmp_path / file).write_text(code)
    with pytest.raises(PluginError) as caught:
        plugins.add([tmp_path / file])
    assert str(caught.value).startswith(message) and caught.value.exit_code == 2
    assert plugins._added == {"families": {}, "tasks": {}}
    sys.modules.pop(f"nabi_plugin.{Path(file).stem}", None)


def test_a_missing_plugin_ends_the_command(tmp_path: Path) -> None:
    found = run(ROOT / "src", with_data(tmp_path), "-m", "nabi", *TRAIN.split(), "--plugin", "bag.py", code=2)
    assert "error: no such plugin file: 'bag.py'." in found and not (tmp_path / "run").exists()


def test_the_table_in_the_docs() -> None:
    from nabi.plugins import table

    assert table() in DOCS, "docs/plugins.md: put in the output of the command that stands above its tables"
