"""Ray and Slurm give the bytes of the local executor. Slurm is a few shell scripts here, which run what datatrove hands in as a cluster would."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from data.corpus.builds import ROOT, built, content, recipe, tree
from nabi.data.corpus.recipe import Slurm
from nabi.errors import OptionError, WorkError

# of Slurm: takes a script, runs it once for each number of its array, one after the other; `srun` and `squeue` as little as is needed
SBATCH = """#!{python}
import os, re, shutil, subprocess, sys
script = open(sys.argv[-1]).read()
folder = os.environ["FAKE_SLURM"]
with open(os.path.join(folder, "jobs"), "a") as file:
    file.write(script + "\\n=====\\n")
first, last = map(int, re.search(r"--array=(\\d+)-(\\d+)", script).groups())
failed = 0
for number in range(first, last + 1):
    env = {{**os.environ, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_NODELIST": "here", "RUN_OFFSET": "0"}}
    with open(os.path.join(folder, "log"), "a") as log:
        subprocess.run(["bash", "-c", script], env=env, stdout=log, stderr=log)
print("Submitted batch job 7")
"""
SRUN = """#!/bin/bash
while [[ "$1" == -* ]]; do if [[ "$1" == -n ]]; then shift; fi; shift; done
exec "$@"
"""
EMPTY = "#!/bin/bash\nexit 0\n"
NAMES = "#!/bin/bash\necho here\n"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Slurm's commands, first on the PATH."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    launch = f"#!{sys.executable}\nfrom datatrove.tools.launch_pickled_pipeline import main\nmain()\n"
    sbatch = SBATCH.format(python=sys.executable)
    programs = {"sbatch": sbatch, "srun": SRUN, "squeue": EMPTY, "scancel": EMPTY, "scontrol": NAMES, "launch_pickled_pipeline": launch}
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    return folder


@pytest.mark.slow  # needs the extra cluster, which `make test-all` installs
def test_slurm_gives_the_bytes_of_the_local_executor(slurm: Path, tmp_path: Path) -> None:
    files = tree(tmp_path / "files", 3)
    small: dict[str, Any] = {"exact": False, "near": None, "shard": 1 << 20}  # every job costs seconds
    about = Slurm(partition="cpu", time="01:00:00", setup="export NABI_SETUP=done", options={"account": "mine"}, poll=0.01)
    built(recipe(files, **small), tmp_path / "local")
    built(recipe(files, executor="slurm", slurm=about, **small), tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "local")
    scripts = (slurm / "jobs").read_text().split("=====")
    first = scripts[0]
    for line in ("partition=cpu", "time=01:00:00", "account=mine", "mem-per-cpu=1G", "job-name=nabi-read", "cpus-per-task=1"):
        assert f"#SBATCH --{line}\n" in first, first
    assert re.search(r"#SBATCH --array=0-\d+%2\n", first) and "export NABI_SETUP=done" in first and "qos" not in first
    assert "launch_pickled_pipeline" in first and len(scripts) - 1 == len(set(re.findall(r"job-name=(\S+)", "".join(scripts))))


@pytest.mark.slow  # needs the extra cluster, which `make test-all` installs
def test_an_error_on_a_node_is_told_here(slurm: Path, tmp_path: Path) -> None:
    files = tree(tmp_path / "files", 3)
    wanted = recipe(files, executor="slurm", slurm=Slurm(partition="cpu", poll=0.01))
    (slurm / "launch_pickled_pipeline").write_text("#!/bin/bash\nexit 1\n")
    with pytest.raises(WorkError, match=r"read: \d+ tasks were not done, the first is 0\. What the machines said is in .*logs/read"):
        built(wanted, tmp_path / "out")
    (slurm / "sbatch").write_text("#!/bin/bash\nexit 1\n")
    with pytest.raises(WorkError, match="the job could not be handed to Slurm"):
        built(wanted, tmp_path / "out")


def test_slurm_needs_a_partition(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="Slurm needs a partition"):
        recipe(tree(tmp_path / "files", 1), executor="slurm")


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datatrove.executor.ray", None)
    with pytest.raises(OptionError, match=r"ip install 'nabi\[cluster\]'"):
        built(recipe(tree(tmp_path / "files", 12), executor="ray"), tmp_path / "out")


@pytest.mark.slow
def test_two_workers_of_ray_give_the_bytes_of_the_local_executor(tmp_path: Path) -> None:
    files = tree(tmp_path / "files", 24)
    built(recipe(files), tmp_path / "local")
    built(recipe(files, executor="ray"), tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "local")
    timing = json.loads((tmp_path / "out" / "manifest.json").read_text())["timing"]
    assert timing["workers"] == 2
