"""What importing nabi and asking for help load: nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "tokenizers", "safetensors", "click"}
HELP = "from nabi.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code"


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after ``code``."""
    show = "import sys\nprint('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("code", ["import nabi", "import nabi\ndir(nabi)\nnabi.__version__", "from nabi import NabiError"])
def test_importing_nabi_loads_nothing_heavy(code: str) -> None:
    assert not loaded(code) & HEAVY


def test_help_loads_no_torch() -> None:
    assert loaded(HELP) & HEAVY == {"click"}


def test_control_a_heavy_import_is_seen() -> None:
    assert "numpy" in loaded("from nabi import metrics")
