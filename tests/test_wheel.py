"""The built wheel: what is in it, and that it works in an empty environment which has nothing but its declared dependencies."""

from __future__ import annotations

import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
SMOKE = """
import importlib.util, pathlib, pkgutil, sys
import nabi
home = pathlib.Path(nabi.__file__).parent
assert home.is_relative_to(sys.prefix), home
for module in pkgutil.walk_packages([str(home)], "nabi."):
    if module.name != "nabi.__main__":
        importlib.import_module(module.name)
strangers = {name for name in ("sklearn", "pandas", "transformers", "pytest") if importlib.util.find_spec(name)}
assert not strangers, strangers
from nabi.data.shipped import sms_spam
print(*map(len, sms_spam()), *[getattr(nabi, name) is not None for name in nabi.__all__])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive, so that the archive is tried too. Needs no network."""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are links to the ones installed here, instead of a download."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    site = next(home.glob("lib/python*/site-packages"))
    for name in closure(required(installed_in(site))):
        found = metadata.distribution(name)
        for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    return home


def installed_in(site: Path) -> metadata.Distribution:
    """nabi's metadata as pip wrote it from the wheel."""
    return metadata.Distribution.at(next(site.glob("nabi-*.dist-info")))


def required(found: metadata.Distribution) -> list[str]:
    """What a distribution always needs here: no extras, no other platform."""
    wanted = [Requirement(line) for line in found.requires or ()]
    return [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]


def closure(names: list[str]) -> set[str]:
    """These distributions and all that they need, by normal name."""
    seen: set[str] = set()
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name not in seen:
            seen.add(name)
            names += required(metadata.distribution(name))
    return seen


def test_content(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    source = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src/nabi").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    shipped = {f"nabi/data/sms_spam/{name}" for name in ("train.jsonl.gz", "dev.jsonl.gz", "CREDITS.md")}
    assert {"nabi/py.typed", *shipped} <= source <= names
    rest = {name.partition("/")[2] for name in names - source}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE", "licenses/NOTICE"} <= rest
    assert all(".dist-info/" in name for name in names - source), names - source


def test_it_works_in_an_empty_environment(environment: Path, tmp_path: Path) -> None:
    # PYTHONPATH and the like would let this checkout in
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def output(*command: str) -> str:
        done = subprocess.run([str(environment / "bin" / command[0]), *command[1:]], capture_output=True, text=True, cwd=tmp_path, env=clean)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert output("python", "-c", SMOKE).split()[:2] == ["3885", "541"]
    assert output("nabi", "--help") == output("python", "-m", "nabi", "--help") != ""
    assert "predict" in output("nabi", "--help")
    assert output("nabi", "--version").split()[-1] == installed_in(next(environment.glob("lib/python*/site-packages"))).version
